// The picture of one prompt: tokens as buttons, demonstrations that fold, and edges as arcs over the text. Loaded
// before explorer.js. Texts enter the document only as text nodes.

const SVG = "http://www.w3.org/2000/svg";
/** Longer prompts start with their demonstrations folded. */
const LONG = 200;

/** An HTML element; strings among the children become text, never markup. */
function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function s(tag, attributes = {}) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥" };

/** A token on one line, with visible outer spaces, isolated from its neighbours' writing direction. A number is
    the id of no token. */
function label(text) {
  if (typeof text === "number") return h("i", { class: "mx-none" }, `id ${text}, no token`);
  if (!text) return h("i", { class: "mx-none" }, "no characters");
  if (/^[\p{C}\p{Z}]+$/u.test(text) && !/^[ \n\t]+$/.test(text)) {
    const codes = [...text].map((one) => SIGNS[one] ?? `U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
    return h("i", { class: "mx-none" }, codes.join(" "));
  }
  const [, before, body, after] = /^(\s*)([^]*?)(\s*)$/.exec(text);
  const signs = (spaces) => (spaces ? h("span", { class: "mx-space" }, [...spaces].map((one) => SIGNS[one] ?? "␣").join("")) : null);
  return h("bdi", {}, signs(before), body.replace(/[\n\t]/g, (one) => SIGNS[one]), signs(after));
}

/** A token's text for screen readers. */
const spoken = (text) => text.trim() || (/\n/.test(text) ? "line break" : text ? "space" : "rest of a character");

/**
 * The picture of one prompt.
 *
 * `tokens` are texts, gaps and roles; `start` has blocks, anchors and target. `on` has a callback per action: `follow`
 * (a token or null), `fold` (a demonstration), `describe` (an edge and a function that names its ends, or null).
 */
function makePicture(start, tokens, on) {
  const anchors = new Set(start.anchors);
  const svg = s("svg", { "aria-hidden": "true", class: "mx-arcs" });
  const text = h("div", { class: "mx-text", role: "group", "aria-label": "Tokens of the prompt", dir: "ltr",
    style: `--mx-leading:${tokens.length > 150 ? 2.7 : 3.4}` });
  const title = h("h4", { class: "mx-subtitle", hidden: true });
  const note = h("p", { class: "mx-note mx-absentnote", hidden: true });
  const frame = h("div", { class: "mx-picture" }, svg, text);
  const element = h("div", { class: "mx-view" }, title, note, frame);
  const paths = new Map();
  const folds = [];
  let followed = null;

  // -- tokens

  const chips = tokens.map(({ text: shown, role }, i) => h("button", {
    type: "button", class: `mx-token mx-${role || "other"}${shown.trim() ? "" : " mx-blank"}`, tabindex: i ? -1 : 0,
    "aria-pressed": "false", "data-token": i, "aria-label": `token ${i}${role ? `, ${role}` : ""}: ${spoken(shown)}`,
    onclick: () => on.follow(followed === i ? null : i),
    onfocus: () => chips.forEach((other, j) => (other.tabIndex = j === i ? 0 : -1)),
    onkeydown: (event) => steer(event, i),
  }, shown ? label(shown) : h("bdi", {}, "·")));
  const hidden = (i) => chips[i].closest("[hidden]") !== null;

  function put(into, i) {
    const { text: shown, gap } = tokens[i];
    const before = gap + (/^\s*/.exec(shown)?.[0] ?? "");
    if (/\n/.test(before) && shown.trim()) into.append(h("br"));
    if (gap.trim()) into.append(h("span", { class: "mx-gap" }, h("bdi", {}, gap.trim())));
    into.append(chips[i], document.createElement("wbr"));
    if (/\n\s*$/.test(shown)) into.append(h("br"));
  }

  const folding = tokens.length > LONG;
  let next = 0;
  start.blocks.forEach(({ span: [first, last], label: kept }, number) => {
    while (next < first) put(text, next++);
    const block = h("span", { class: folding ? "mx-block" : "" });
    const runs = [];
    if (folding) {
      const words = tokens.slice(first, last).map((one) => one.gap + one.text).join("").trim().slice(0, 70);
      const fold = h("button", { type: "button", class: "mx-fold", "data-fold": number, onclick: () => on.fold(number) });
      folds.push({ fold, runs, words, count: last - first, first, last });
      block.append(fold);
    }
    let run = null;
    for (; next < last; next++) {
      const stays = kept.includes(next);
      if (!run || run.stays !== stays) {
        run = { stays, box: h("span", {}) };
        if (!stays) runs.push(run.box);
        block.append(run.box);
      }
      put(run.box, next);
    }
    text.append(block);
  });
  while (next < tokens.length) put(text, next++);

  function steer(event, i) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: 1, End: -1 }[event.key];
    if (event.key === "Escape") on.follow(null);
    if (!step) return;
    let to = { Home: 0, End: chips.length - 1 }[event.key] ?? i + step;
    while (chips[to] && hidden(to)) to += step;
    event.preventDefault();
    chips[to]?.focus();
  }

  function setFolds(folded) {
    folds.forEach(({ fold, runs, words, count }, number) => {
      const closed = folded.has(number);
      runs.forEach((run) => (run.hidden = closed));
      fold.setAttribute("aria-expanded", String(!closed));
      fold.setAttribute("aria-label", `Demonstration ${number + 1}, ${count} tokens`);
      fold.replaceChildren(closed ? "▸ " : "▾ ", `${number + 1} `,
        ...(closed ? [h("bdi", {}, words.replace(/\s+/g, " "), "…"), h("small", {}, ` ${count} tokens`)] : []));
    });
    const tabbed = chips.findIndex((chip) => chip.tabIndex === 0);
    if (tabbed < 0 || hidden(tabbed)) {
      const first = chips.findIndex((_, i) => !hidden(i));
      chips.forEach((chip, i) => (chip.tabIndex = i === first ? 0 : -1));
    }
  }

  // -- edges

  /** Where a token is shown: itself, or the folded demonstration that contains it. */
  const shownAt = (i) => (hidden(i) ? `d${folds.findIndex(({ first, last }) => first <= i && i < last)}` : i);
  const isTarget = (end) => end === start.target;
  const kind = (query, key) => (anchors.has(query) ? "wp" : isTarget(query) && anchors.has(key) ? "pq" : "ww");

  /** Edges between visible elements; of folded tokens their sum, or the largest where a sum means nothing. */
  function gathered(edges, summed) {
    const sums = new Map();
    for (const [query, key, value] of edges) {
      const [to, from] = [shownAt(query), shownAt(key)];
      if (to === from) continue;
      const sum = sums.get(`${to}-${from}`) ?? { query: to, key: from, value: 0 };
      sum.value = summed ? sum.value + value : Math.max(sum.value, value);
      sums.set(`${to}-${from}`, sum);
    }
    return [...sums.values()].sort((a, b) => b.value - a.value);
  }

  function drawArcs(edges, said) {
    const box = frame.getBoundingClientRect();
    if (!box.width) return;
    svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const places = new Map();
    const place = (end) => {
      if (!places.has(end)) {
        const node = typeof end === "number" ? chips[end] : folds[Number(end.slice(1))].fold;
        const rect = node.getBoundingClientRect();
        places.set(end, { x: rect.left - box.left + rect.width / 2, top: rect.top - box.top + 1, bottom: rect.bottom - box.top - 1 });
      }
      return places.get(end);
    };
    const seen = gathered(edges, said !== "enrichment"), strongest = seen[0]?.value || 1, kept = new Set();
    for (const { query, key, value } of seen) {
      const at = `${query}-${key}`, share = value / strongest;
      let path = paths.get(at);
      if (!path) {
        path = s("path", { pathLength: 1, fill: "none" });
        path.addEventListener("pointerenter", () => on.describe(path.edge, named));
        path.addEventListener("pointerleave", () => on.describe(null));
        paths.set(at, path);
        svg.append(path);
        path.style.opacity = 0;
        path.getBoundingClientRect();
      }
      const touches = followed == null || query === shownAt(followed) || key === shownAt(followed);
      path.edge = { query, key, value, share, said };
      path.setAttribute("class", `mx-arc mx-${kind(query, key)}`);
      path.setAttribute("d", curve(place(key), place(query), box.width - 2));
      path.style.strokeWidth = `${(0.8 + 5.2 * share).toFixed(2)}px`;
      path.style.opacity = (touches ? 0.12 + 0.8 * share ** 0.6 : 0.03).toFixed(3);
      kept.add(at);
    }
    for (const [at, path] of paths) {
      if (kept.has(at)) continue;
      paths.delete(at);
      path.style.opacity = 0;
      setTimeout(() => path.remove(), 400);
    }
  }

  /** From the token that is read to the later one that reads it: above the line, down to the next, or round the text. */
  function curve(from, to, edge) {
    const across = Math.abs(to.x - from.x), drop = to.top - from.bottom;
    if (Math.abs(from.top - to.top) < 6) {
      const rise = Math.min(30, 9 + 0.1 * across);
      return `M${from.x},${from.top}C${from.x},${from.top - rise} ${to.x},${to.top - rise} ${to.x},${to.top}`;
    }
    if (drop < 60) {
      return `M${from.x},${from.bottom}C${from.x},${from.bottom + 0.75 * drop} ${to.x},${to.top - 0.75 * drop} ${to.x},${to.top}`;
    }
    const x = Math.min(edge, Math.max(from.x, to.x) + 20 + 0.34 * drop);
    return `M${from.x},${from.bottom}C${x},${from.bottom + 34} ${x},${to.top - 34} ${to.x},${to.top}`;
  }

  /** Outlines of tokens are as strong as their `weights`; with a followed token the others fade. */
  function mark(weights) {
    const most = Math.max(...weights.values(), 1e-30);
    chips.forEach((chip, i) => {
      chip.setAttribute("aria-pressed", String(i === followed));
      chip.style.setProperty("--mx-strength", ((weights.get(i) ?? 0) / most).toFixed(3));
      chip.classList.toggle("mx-far", followed != null && i !== followed && !weights.has(i));
    });
  }

  function named(end) {
    if (typeof end === "string") return h("span", { class: "mx-name mx-other" }, `demonstration ${Number(end.slice(1)) + 1}`);
    const { text: shown, role } = tokens[end];
    return h("span", { class: `mx-name mx-${role || "other"}` }, label(shown || "…"));
  }

  return {
    element, chips, frame, name: named,
    /** Show edges [query, key, value]; `missing` says why there are none. */
    draw({ edges, said, token, folded, heading, missing, outlined }) {
      followed = token;
      setFolds(folded);
      title.hidden = !heading;
      title.textContent = heading ?? "";
      note.hidden = !missing;
      note.textContent = missing ?? "";
      drawArcs(edges, said);
      const weights = new Map(outlined);
      if (token != null) {
        weights.clear();
        for (const [query, key, value] of edges) {
          if (query !== token && key !== token) continue;
          const other = query === token ? key : query;
          weights.set(other, Math.max(weights.get(other) ?? 0, value));
        }
      }
      mark(weights);
    },
  };
}
