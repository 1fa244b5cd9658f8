// The explorer's picture. One file for both lives of it: a Jupyter widget that asks the kernel (the default export, for
// anywidget), and a page that keeps what was computed (openPage). Texts enter the document as text nodes only.

const SVG = "http://www.w3.org/2000/svg";
const NONE = { isolate: null, drop: null, own: [] };

export default {
  render({ model, el }) {
    return mount(el, model.get("start"), fromKernel(model));
  },
};

function openPage(document) {
  const start = JSON.parse(document.getElementById("start").textContent);
  mount(document.getElementById("explorer"), start, fromPage(start.kept));
}

// ---- where numbers come from ----------------------------------------------------------------------------------------

/** Asks the kernel; each request has a number, and its answer carries the same. */
function fromKernel(model) {
  const waiting = new Map();
  let last = 0;
  const hear = (message) => {
    const { resolve, reject } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    if (message.error) reject?.(new Error(message.error));
    else resolve?.(message.answer);
  };
  model.on("msg:custom", hear);
  return {
    live: true,
    ask: (ask, switches, about = 0) =>
      new Promise((resolve, reject) => {
        waiting.set(++last, { resolve, reject });
        model.send({ id: last, ask, switches, about });
      }),
    close: () => model.off("msg:custom", hear),
  };
}

/** Looks up what the page keeps: every patch on its own, heads and guesses without patches. */
function fromPage(kept) {
  const same = (a, b) => JSON.stringify(order(a)) === JSON.stringify(order(b));
  return {
    live: false,
    async ask(ask, switches, about = 0) {
      if (ask === "view") return kept.views.find((one) => same(one.switches, switches)).view;
      if (!same(switches, NONE)) throw new Error("This page keeps it without patches only; in a notebook it is computed.");
      return kept[ask][about];
    },
    close: () => {},
  };
}

const order = ({ isolate, drop, own }) => [isolate, drop, [...own].sort()];

// ---- small helpers --------------------------------------------------------------------------------------------------

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

/** A text on one line, with what cannot be seen made visible; kept apart from its neighbours' direction of writing. */
const label = (text) => h("bdi", {}, text.replace(/\n/g, "⏎").trim() || "␣");

function percent(share) {
  if (share == null) return "–";
  if (share >= 0.99995) return "100 %";
  if (share > 0 && share < 0.0001) return "< 0.01 %";
  return `${(100 * share).toFixed(share < 0.1 || share > 0.995 ? 2 : 1)} %`;
}

const number = (value) => Number(value).toPrecision(3);

/** What the colours above the slider mean, each with its name, and what is measured. */
const caption = (measure, ...parts) =>
  h("div", {}, ...parts.map(([part, says]) => h("span", {}, h("i", { class: `mx-swatch mx-${part}` }), says)), h("span", {}, measure));

/** A notebook has commands on plain keys (arrows, b, d d); keys pressed in here are for here. Ctrl-S and its like go on. */
function keepKeys(event) {
  if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation();
}

let mounted = 0;

// ---- the explorer ---------------------------------------------------------------------------------------------------

function mount(root, start, source) {
  const id = `mx${++mounted}`;
  const anchors = new Set(start.anchors);
  const state = {
    layer: 0, token: null, view: start.view, switches: { ...NONE, own: [] },
    heads: null, off: new Set(), guesses: null, playing: null, busy: 0, error: "",
  };

  const kind = (query, key) => (anchors.has(query) ? "wp" : query === start.target && anchors.has(key) ? "pq" : "ww");
  const name = (token) => {
    const { text, role } = start.tokens[token];
    return h("span", { class: `mx-name mx-${role || "other"}` }, label(text || "…"));
  };

  // -- the frame

  const slider = h("input", {
    type: "range", min: 0, max: start.layers - 1, value: 0, id: `${id}-layer`, "aria-label": "Layer",
    oninput: () => { stop(); toLayer(Number(slider.value)); },
  });
  const play = h("button", { type: "button", class: "mx-play", onclick: () => (state.playing ? stop() : run()) });
  const where = h("output", { class: "mx-where", for: `${id}-layer` });
  const bars = h("div", { class: "mx-bars", "aria-hidden": "true" });
  const largest = h("span", {}, "share of the layer’s saliency");
  const barsTitle = h("div", { class: "mx-note" },
    caption("share of mean saliency per edge, by layer", ["wp", "into label words (S_wp)"],
      ["pq", "label words to target (S_pq)"], ["ww", "other edges (S_ww)"]),
    caption(largest, ["in", "flows into the token"], ["out", "flows out of it"]));
  const svg = s("svg", { "aria-hidden": "true", class: "mx-arcs" });
  const text = h("div", { class: "mx-text", role: "group", "aria-label": "Tokens of the prompt", dir: "ltr",
    style: `--mx-leading:${start.tokens.length > 150 ? 2.7 : 3.4}` });
  const readout = h("p", { class: "mx-readout", role: "status" });
  const headBox = h("div", { class: "mx-heads" });
  const prediction = h("div", { class: "mx-prediction" });
  const verdict = h("p", { class: "mx-verdict", role: "status" });
  const patches = h("div", { class: "mx-patches" });
  const lens = h("div", { class: "mx-lens" });
  const trouble = h("p", { class: "mx-error", role: "alert", hidden: true });
  const picture = h("div", { class: "mx-picture" }, svg, text);

  const frame = h(
    "section", { class: "mx", lang: "en", "aria-label": "Explorer of one prompt", onkeydown: keepKeys },
    h("header", { class: "mx-header" },
      h("div", { class: "mx-title" }, h("b", { title: start.model }, h("bdi", {}, start.model)),
        h("span", { title: start.task }, h("bdi", {}, start.task || "stored prompt")),
        h("span", {}, `${start.tokens.length} tokens`)),
      h("div", { class: "mx-legend" },
        h("span", {}, h("i", { class: "mx-name mx-w" }, "w"), " demonstration text"),
        h("span", {}, h("i", { class: "mx-name mx-p" }, "p"), " label word"),
        h("span", {}, h("i", { class: "mx-name mx-q" }, "q"), " target"))),
    trouble,
    h("div", { class: "mx-columns" },
      h("div", { class: "mx-main" },
        h("div", { class: "mx-depth" }, play,
          h("div", { class: "mx-scrub", style: `--layers:${start.layers}` }, bars, slider), where),
        barsTitle, picture, readout, headBox),
      h("aside", { class: "mx-side" },
        h("h3", {}, "Prediction ", h("small", {}, "among the label words")), verdict, prediction,
        h("h3", {}, "Patches"), patches,
        h("h3", {}, "Logit lens ", h("small", {}, "whole vocabulary")), lens)));
  for (const [role, colour] of Object.entries(start.colours)) frame.style.setProperty(`--mx-${role}`, colour);
  root.replaceChildren(frame);

  // -- tokens

  const chips = start.tokens.map(({ text: shown, role }, i) => {
    const body = shown.trim();
    const chip = h("button", {
      type: "button", class: `mx-token mx-${role || "other"}${body ? "" : " mx-blank"}`, tabindex: i ? -1 : 0,
      "aria-pressed": "false", "data-token": i,
      "aria-label": `token ${i}${role ? `, ${role}` : ""}: ${body || (/\n/.test(shown) ? "line break" : shown ? "space" : "rest of a character")}`,
      onclick: () => follow(state.token === i ? null : i),
      onfocus: () => chips.forEach((other, j) => (other.tabIndex = j === i ? 0 : -1)),
      onkeydown: (event) => steer(event, i),
    }, h("bdi", {}, body || (/\n/.test(shown) ? "⏎" : shown ? "␣" : "·")));
    return chip;
  });
  start.tokens.forEach(({ text: shown, gap }, i) => {
    const before = gap + (/^\s*/.exec(shown)?.[0] ?? "");
    if (/\n/.test(before) && shown.trim()) text.append(h("br"));
    else if (before) text.append(" ");
    if (gap.trim()) text.append(h("span", { class: "mx-gap" }, h("bdi", {}, gap.trim())));
    text.append(chips[i], document.createElement("wbr"));
    if (/\n\s*$/.test(shown)) text.append(h("br"));
  });

  function steer(event, i) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = step ? i + step : { Home: 0, End: chips.length - 1 }[event.key];
    if (event.key === "Escape") follow(null);
    if (next == null || !chips[next]) return;
    event.preventDefault();
    chips[next].focus();
  }

  // -- what is shown of a layer

  /** Edges [query, key, saliency] of the layer, for the heads that are on. */
  function edges() {
    if (!state.heads || !state.off.size) return state.view.edges[state.layer];
    return state.heads.edges
      .map(([query, key], i) => {
        const sum = state.heads.values[i].reduce((total, value, head) => (state.off.has(head) ? total : total + value), 0);
        return [query, key, Math.abs(sum)];
      })
      .filter((edge) => edge[2] > 0)
      .sort((a, b) => b[2] - a[2])
      .slice(0, Math.max(40, state.view.edges[state.layer].length));
  }

  const paths = new Map();

  function drawArcs() {
    const seen = edges();
    const strongest = seen[0]?.[2] ?? 1;
    const box = picture.getBoundingClientRect();
    if (!box.width) return;
    svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const place = chips.map((chip) => {
      const rect = chip.getBoundingClientRect();
      return {
        x: rect.left - box.left + rect.width / 2, top: rect.top - box.top + 1,
        bottom: rect.bottom - box.top - 1, right: rect.right - box.left,
      };
    });
    const edge = box.width - 2;
    const kept = new Set();
    for (const [query, key, saliency] of seen) {
      const at = `${query}-${key}`;
      const share = saliency / strongest;
      const touches = state.token == null || query === state.token || key === state.token;
      let path = paths.get(at);
      if (!path) {
        path = s("path", { pathLength: 1, fill: "none" });
        path.addEventListener("pointerenter", () => describe(path.edge));
        path.addEventListener("pointerleave", () => describe(null));
        paths.set(at, path);
        svg.append(path);
        path.style.opacity = 0;
        path.getBoundingClientRect();
      }
      path.edge = { query, key, saliency, share };
      path.setAttribute("class", `mx-arc mx-${kind(query, key)}`);
      path.setAttribute("d", curve(place[key], place[query], edge));
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
    markTokens(seen);
    describe(null);
  }

  /** From the token that is read to the later one that reads it: over the line, down to the next, or round the text. */
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

  /** Tokens that a followed token reads, or that read it, are outlined as strongly as the flow between them. */
  function markTokens(seen) {
    const strength = new Map();
    for (const [query, key, saliency] of seen) {
      if (query !== state.token && key !== state.token) continue;
      const other = query === state.token ? key : query;
      strength.set(other, Math.max(strength.get(other) ?? 0, saliency));
    }
    const most = Math.max(...strength.values(), 1e-30);
    chips.forEach((chip, i) => {
      chip.setAttribute("aria-pressed", String(i === state.token));
      chip.style.setProperty("--mx-strength", ((strength.get(i) ?? 0) / most).toFixed(3));
      chip.classList.toggle("mx-far", state.token != null && i !== state.token && !strength.has(i));
    });
  }

  function describe(edge) {
    if (edge) {
      readout.replaceChildren(name(edge.query), " reads ", name(edge.key),
        `: saliency ${number(edge.saliency)}, ${percent(edge.share)} of the largest`);
      return;
    }
    const seen = edges();
    if (!seen.length) {
      readout.replaceChildren("Nothing flows here: the loss does not depend on this layer's attention.");
      return;
    }
    if (state.token != null) return describeToken(seen);
    const [query, key] = seen[0];
    const cut = state.off.size
      ? `the ${seen.length} strongest edges of the heads that are on`
      : `the ${seen.length} strongest of ${state.view.total[state.layer]} edges, ${percent(state.view.shown[state.layer])} of the layer’s saliency`;
    readout.replaceChildren(`Drawn: ${cut}. Strongest: `, name(query), " reads ", name(key), ".");
  }

  function describeToken(seen) {
    const reads = seen.find(([query]) => query === state.token);
    const readBy = seen.find(([, key]) => key === state.token);
    const share = (sums) => percent(sums[state.layer][state.token]);
    readout.replaceChildren(name(state.token), ` (token ${state.token}): ${share(state.view.into)} of the layer’s saliency flows into it`,
      ...(reads ? [", most from ", name(reads[1])] : []), `; ${share(state.view.out)} flows out of it`,
      ...(readBy ? [", most to ", name(readBy[0])] : []), ". ",
      h("button", { type: "button", class: "mx-link", onclick: () => follow(null) }, "Show all"));
  }

  /** Above the slider: by layer, where information flows; or, of a followed token, how much flows in and out. */
  function drawBars() {
    const token = state.token;
    const flows = token == null ? state.view.flow : state.view.into.map((into, layer) => [into[token], state.view.out[layer][token]]);
    // One token has a small share: its bars are as high as its largest layer, and the caption says how much that is.
    const full = token == null ? 1 : Math.max(...flows.map(([into, out]) => into + out), 1e-30);
    const columns = flows.map((flow, layer) => {
      const parts = (token == null ? ["wp", "pq", "ww"] : ["in", "out"]).map((part, i) =>
        h("i", { class: `mx-bar mx-${part}`, style: `height:${100 * (flow?.[i] ?? 0) / full}%` }));
      return h("div", { class: layer === state.layer ? "mx-now" : "", onclick: () => { stop(); toLayer(layer); } }, ...parts);
    });
    largest.textContent = `share of the layer’s saliency, at most ${percent(full)}`;
    bars.replaceChildren(...columns);
    [...barsTitle.children].forEach((one, i) => one.classList.toggle("mx-absent", i !== Number(token != null)));
  }

  // -- prediction, guesses, heads, patches

  function drawPrediction() {
    const before = start.view.probs, after = state.view.probs, patched = on();
    const best = (probs) => probs.indexOf(Math.max(...probs));
    const word = (c) => h("b", {}, label(start.classes[c].word));
    verdict.replaceChildren(...(!patched
      ? ["The model answers ", word(best(before)), ...gold(best(before))]
      : best(before) === best(after)
        ? ["Still ", word(best(after)), `: ${percent(before[best(after)])} → ${percent(after[best(after)])}`]
        : ["Changed from ", word(best(before)), " to ", word(best(after)), ...gold(best(after))]));
    prediction.replaceChildren(...start.classes.map((one, c) =>
      h("div", { class: `mx-class${best(after) === c ? " mx-best" : ""}` },
        h("span", { class: "mx-word", title: one.name }, label(one.word), c === start.gold ? h("small", {}, " true") : null),
        h("span", { class: "mx-meter" },
          h("i", { class: "mx-after", style: `width:${100 * after[c]}%` }),
          patched ? h("i", { class: "mx-before", style: `left:${100 * before[c]}%` }) : null),
        h("span", { class: "mx-value" }, patched ? `${percent(before[c])} → ${percent(after[c])}` : percent(after[c])))));
  }

  const gold = (answer) => (start.gold == null ? ["."] : answer === start.gold ? [", which is right."] : [", which is wrong."]);

  function drawGuesses() {
    const token = state.token ?? start.target;
    const head = h("p", { class: "mx-note" }, "What the model would say next after ", name(token),
      state.token == null ? ", the target" : "", ", were each layer the last.");
    if (typeof state.guesses === "string") return lens.replaceChildren(head, h("p", { class: "mx-soft" }, state.guesses));
    const rows = (state.guesses ?? []).map((row, point) => {
      const cells = [];
      for (let i = 0; i < row.length; i += 2) {
        cells.push(h("td", { style: `--mx-share:${row[i + 1]}`, title: `${row[i].trim() || row[i]}: ${percent(row[i + 1])}` }, label(row[i])));
      }
      return h("tr", { class: point === state.layer + 1 ? "mx-now" : "" },
        h("th", { scope: "row" }, point ? `after ${point - 1}` : "embedding"), ...cells,
        h("td", { class: "mx-value" }, percent(row[1])));
    });
    lens.replaceChildren(head, h("div", { class: "mx-scroll" }, h("table", {}, h("tbody", {}, ...rows))));
  }

  function drawHeads() {
    const all = h("button", { type: "button", class: "mx-link", disabled: !state.off.size, onclick: () => setHeads(new Set()) }, "all on");
    headBox.replaceChildren(h("span", { id: `${id}-heads` }, `Heads of layer ${state.layer}`),
      h("div", { class: "mx-headrow", role: "group", "aria-labelledby": `${id}-heads` },
        ...Array.from({ length: start.heads }, (_, head) =>
          h("button", {
            type: "button", class: "mx-head", "aria-pressed": String(!state.off.has(head)), "aria-label": `head ${head}`,
            onclick: () => toggleHead(head),
            ondblclick: () => setHeads(new Set(Array.from({ length: start.heads }, (_, i) => i).filter((i) => i !== head))),
          }, String(head)))), all,
      h("span", { class: "mx-soft" }, "double-click: this one alone"));
  }

  function toggleHead(head) {
    const off = new Set(state.off);
    if (!off.delete(head)) off.add(head);
    return setHeads(off);
  }

  async function setHeads(off) {
    state.off = off;
    updateHeads();
    if (off.size && !state.heads) {
      const { layer, switches } = state;
      const answer = await answered("heads", switches, layer);
      if (state.layer !== layer || state.switches !== switches) return;
      if (answer.error) { state.off = new Set(); trouble.hidden = false; trouble.textContent = answer.error; }
      else state.heads = answer.value;
      updateHeads();
    }
    drawArcs();
  }

  function updateHeads() {
    headBox.querySelectorAll(".mx-head").forEach((button, head) => button.setAttribute("aria-pressed", String(!state.off.has(head))));
    headBox.querySelector(".mx-link").disabled = !state.off.size;
  }

  const on = () => state.switches.isolate != null || state.switches.drop != null || state.switches.own.length > 0;

  const isolateLayers = h("input", {
    type: "number", min: 1, max: start.layers, value: start.isolate, disabled: !source.live, "aria-label": "number of first layers isolated",
    onchange: () => {
      isolateLayers.value = Math.min(start.layers, Math.max(1, Math.round(Number(isolateLayers.value)) || 1));
      if (isolateBox.checked) switchTo({ isolate: Number(isolateLayers.value) });
    },
  });
  const isolateBox = h("input", {
    type: "checkbox", role: "switch", onchange: () => switchTo({ isolate: isolateBox.checked ? Number(isolateLayers.value) : null }),
  });
  const dropChoice = h("select", {
    "aria-label": "layer to drop", onchange: () => switchTo({ drop: dropChoice.value === "" ? null : Number(dropChoice.value) }),
  }, h("option", { value: "" }, "none"), ...Array.from({ length: start.layers }, (_, i) => h("option", { value: i }, String(i))));
  const ownBoxes = start.own.map((one) => h("input", {
    type: "checkbox", role: "switch",
    onchange: () => switchTo({ own: start.own.filter((_, i) => ownBoxes[i].checked), chosen: one }),
  }));
  patches.replaceChildren(
    h("div", { class: "mx-patch" }, h("label", {}, isolateBox, h("span", {}, "Isolate label words")),
      h("span", { class: "mx-detail" }, "first ", isolateLayers, " layers")),
    ...start.own.map((one, i) => h("div", { class: "mx-patch" }, h("label", {}, ownBoxes[i], h("span", { title: one }, h("bdi", {}, one))))),
    h("div", { class: "mx-patch" }, h("label", {}, h("span", {}, "Drop layer ")), dropChoice),
    h("p", { class: "mx-soft" }, source.live ? "Each change re-runs the model." : "One at a time on this page; in a notebook they combine."));

  async function switchTo({ chosen, ...change }) {
    // A page keeps every patch on its own, so there one switch turns the others off.
    const own = change.own && !source.live ? change.own.filter((one) => one === chosen) : change.own;
    const switches = source.live ? { ...state.switches, ...change } : { ...NONE, ...change, ...(own ? { own } : {}) };
    state.switches = switches;
    isolateBox.checked = switches.isolate != null;
    dropChoice.value = switches.drop ?? "";
    ownBoxes.forEach((box, i) => (box.checked = switches.own.includes(start.own[i])));
    const answer = on() ? await answered("view", switches) : { value: start.view };
    if (state.switches !== switches) return;
    trouble.hidden = !answer.error;
    trouble.textContent = answer.error ?? "";
    if (answer.error) return;
    state.view = answer.value;
    state.heads = null;
    state.off = new Set();
    drawBars();
    drawPrediction();
    drawHeads();
    drawArcs();
    await showGuesses();
  }

  async function answered(ask, switches, about) {
    frame.classList.toggle("mx-busy", ++state.busy > 0);
    frame.setAttribute("aria-busy", "true");
    try {
      return { value: await source.ask(ask, switches, about) };
    } catch (error) {
      return { error: error.message };
    } finally {
      frame.classList.toggle("mx-busy", --state.busy > 0);
      frame.setAttribute("aria-busy", String(state.busy > 0));
    }
  }

  // -- moving about

  function toLayer(layer) {
    const headsMatter = state.off.size > 0 || state.heads;
    state.layer = layer;
    slider.value = layer;
    slider.setAttribute("aria-valuetext", `layer ${layer} of 0 to ${start.layers - 1}`);
    where.textContent = `layer ${layer}`;
    if (headsMatter) { state.heads = null; state.off = new Set(); }
    drawBars();
    drawHeads();
    drawArcs();
    lens.querySelectorAll("tr").forEach((row, point) => row.classList.toggle("mx-now", point === layer + 1));
  }

  async function follow(token) {
    state.token = token;
    drawBars();
    drawArcs();
    await showGuesses();
  }

  async function showGuesses() {
    const { token, view, switches } = state;
    if (token == null || token === start.target) state.guesses = view.guesses;
    else {
      const answer = await answered("guesses", switches, token);
      if (state.token !== token || state.switches !== switches) return;
      state.guesses = answer.error ?? answer.value;
    }
    drawGuesses();
  }

  function run() {
    if (state.layer === start.layers - 1) toLayer(0);
    readout.setAttribute("aria-live", "off");
    state.playing = setInterval(() => {
      toLayer(state.layer + 1);
      if (state.layer === start.layers - 1) stop();
    }, 1100);
    drawPlay();
  }

  function stop() {
    clearInterval(state.playing);
    state.playing = null;
    readout.setAttribute("aria-live", "polite");
    drawPlay();
  }

  function drawPlay() {
    play.textContent = state.playing ? "❚❚" : "▶";
    play.setAttribute("aria-label", state.playing ? "Pause" : "Play from shallow to deep layers");
  }

  function fitTheme() {
    const colour = getComputedStyle(frame).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [255, 255, 255];
    const scale = getComputedStyle(frame).backgroundColor.startsWith("color(") ? 255 : 1;
    frame.style.colorScheme = colour.slice(0, 3).reduce((a, b) => a + b) * scale < 384 ? "dark" : "light";
  }

  const resized = new ResizeObserver(() => { fitTheme(); drawArcs(); });
  resized.observe(picture);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  theme.addEventListener("change", fitTheme);
  drawPlay();
  toLayer(0);
  drawPrediction();
  showGuesses();

  return () => {
    stop();
    resized.disconnect();
    theme.removeEventListener("change", fitTheme);
    source.close();
  };
}
