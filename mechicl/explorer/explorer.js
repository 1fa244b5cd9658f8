// The explorer, loaded after picture.js. It serves both as a Jupyter widget that asks the kernel (the default
// export, for anywidget) and as a page that holds precomputed views (openPage).

const NONE = { isolate: null, drop: null, own: [], heads: [], exchange: null };

export default {
  render({ model, el }) {
    return mount(el, model.get("start"), fromKernel(model));
  },
};

function openPage(document) {
  const start = JSON.parse(document.getElementById("start").textContent);
  mount(document.getElementById("explorer"), start, fromPage(start.kept));
}

// ---- sources of numbers ---------------------------------------------------------------------------------------------

/** Asks the kernel; an answer carries the number of its request. */
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
    has: () => true,
    ask: (ask, switches, about = 0) =>
      new Promise((resolve, reject) => {
        waiting.set(++last, { resolve, reject });
        model.send({ id: last, ask, switches, about });
      }),
    close: () => model.off("msg:custom", hear),
  };
}

/** Looks up what the page holds: some patches, one at a time; heads and guesses without patches. */
function fromPage(kept) {
  const same = (a, b) => JSON.stringify(order(a)) === JSON.stringify(order(b));
  const found = (switches) => kept.views.find((one) => same(one.switches, switches))?.view;
  return {
    live: false,
    has: (switches) => found(switches) !== undefined,
    async ask(ask, switches, about = 0) {
      if (ask === "view") return found(switches);
      if (!same(switches, NONE)) throw new Error("This page keeps these for the clean model only; a notebook computes them.");
      if (!kept[ask][about]) throw new Error("This page keeps the lens at label words and at the last tokens; a notebook computes it at every token.");
      return kept[ask][about];
    },
    close: () => {},
  };
}

const order = ({ isolate, drop, own, heads, exchange }) => [isolate, drop, [...own].sort(), heads, exchange];

// ---- small helpers --------------------------------------------------------------------------------------------------

function percent(share) {
  if (share == null) return "–";
  if (share >= 0.99995) return "100 %";
  if (share > 0 && share < 0.0001) return "< 0.01 %";
  return `${(100 * share).toFixed(share < 0.1 || share > 0.995 ? 2 : 1)} %`;
}

const number = (value) => (value && value < 0.01 ? "< 0.01" : String(Number(Number(value).toPrecision(3))));
const times = (value) => `${number(value)} times`;

/** Height of a factor in a bar: 1 and less at its foot, 100 and more at its top. */
const ofLog = (factor) => Math.min(1, Math.max(0, Math.log10(Math.max(factor, 1e-9)) / 2));

/** Legend of the colours above the slider, and what is measured. */
const caption = (measure, ...parts) =>
  h("div", {}, ...parts.map(([part, says]) => h("span", {}, h("i", { class: `mx-swatch mx-${part}` }), says)), h("span", {}, measure));

/** A notebook has commands on plain keys (arrows, b, d d); plain keys pressed in here stay here. */
function keepKeys(event) {
  if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation();
}

const SIGHTS = {
  saliency: "Saliency", attention: "Attention", enrichment: "Enrichment",
};
const EXPLAINED = {
  saliency: "Saliency: how much the loss would change, to first order, if the edge were deleted (Eq. 1).",
  attention: "Attention: mean over heads, without edges to position 0.",
  enrichment: "Enrichment: saliency relative to an average token; 1 is no preference. Arcs: what the target reads. Outlines: tokens that gather.",
};

let mounted = 0;

// ---- the explorer ---------------------------------------------------------------------------------------------------

function mount(root, start, source) {
  const id = `mx${++mounted}`;
  const state = {
    layer: 0, token: null, view: start.view, switches: NONE, sight: "saliency", beside: false,
    heads: null, off: new Set(), guesses: null, playing: null, busy: 0,
    folded: new Set(start.tokens.length > LONG ? start.blocks.keys() : []),
  };
  const on = () => JSON.stringify(state.switches) !== JSON.stringify(NONE);
  const hears = { follow, fold, describe };

  // -- the frame

  const slider = h("input", {
    type: "range", min: 0, max: start.layers - 1, value: 0, id: `${id}-layer`, "aria-label": "Layer",
    oninput: () => { stop(); toLayer(Number(slider.value)); },
  });
  const play = h("button", { type: "button", class: "mx-play", onclick: () => (state.playing ? stop() : run()) });
  const where = h("output", { class: "mx-where", for: `${id}-layer` });
  const bars = h("div", { class: "mx-bars", "aria-hidden": "true" });
  const largest = h("span", {}, "share of the layer’s saliency");
  const captions = {
    saliency: start.anchors.length
      ? caption("share of mean saliency per edge, by layer", ["wp", "into label words (S_wp)"],
        ["pq", "label words to target (S_pq)"], ["ww", "other edges (S_ww)"])
      : caption("This prompt has no label words, so no flow into them or out of them. Click a token for its own."),
    attention: caption("share of attention, mean over tokens and heads", ["ww", "goes to position 0"]),
    enrichment: start.anchors.length
      ? caption("times an average token, logarithm from 1 to 100", ["wp", "label words gather"], ["pq", "target reads label words"])
      : caption("This prompt has no label words. Click a token for its own."),
    token: caption(largest, ["in", "flows into the token"], ["out", "flows out of it"]),
    tokenEnrichment: caption("times an average token, logarithm from 1 to 100", ["in", "the token gathers"], ["out", "the target reads it"]),
  };
  const barsTitle = h("div", { class: "mx-note" }, ...Object.values(captions));
  const sights = h("div", { class: "mx-sights", role: "group", "aria-label": "What arcs show" },
    ...Object.entries(SIGHTS).map(([sight, name]) =>
      h("button", { type: "button", class: "mx-sight", "aria-pressed": "false", "data-sight": sight, onclick: () => see(sight) }, name)));
  const explained = h("span", { class: "mx-soft" });
  const foldAll = h("button", { type: "button", class: "mx-link", hidden: start.tokens.length <= LONG, onclick: () => {
    state.folded = new Set(state.folded.size ? [] : start.blocks.keys());
    draw();
  } });
  const readout = h("p", { class: "mx-readout", role: "status" });
  const headBox = h("div", { class: "mx-heads" });
  const prediction = h("div", { class: "mx-prediction" });
  const verdict = h("p", { class: "mx-verdict", role: "status" });
  const patches = h("div", { class: "mx-patches" });
  const lens = h("div", { class: "mx-lens" });
  const trouble = h("p", { class: "mx-error", role: "alert", hidden: true });
  const pictures = h("div", { class: "mx-pictures" });

  const frame = h(
    "section", { class: "mx", lang: "en", "aria-label": "Explorer of one prompt", onkeydown: keepKeys },
    h("header", { class: "mx-header" },
      h("div", { class: "mx-title" }, h("b", { title: start.model }, h("bdi", {}, start.model)),
        h("span", { title: start.task }, h("bdi", {}, start.task || "stored prompt")),
        h("span", {}, `${start.tokens.length} tokens`)),
      h("div", { class: "mx-legend" },
        ...(start.anchors.length ? [h("span", {}, h("i", { class: "mx-name mx-w" }, "w"), " demonstration text"),
          h("span", {}, h("i", { class: "mx-name mx-p" }, "p"), " label word")] : []),
        h("span", {}, h("i", { class: "mx-name mx-q" }, "q"), " target"))),
    trouble,
    h("div", { class: "mx-columns" },
      h("div", { class: "mx-main" },
        h("div", { class: "mx-depth" }, play,
          h("div", { class: "mx-scrub", style: `--layers:${start.layers}` }, bars, slider), where),
        barsTitle, h("div", { class: "mx-tools" }, sights, explained, foldAll), pictures, readout, headBox),
      h("aside", { class: "mx-side" },
        h("h3", {}, "Prediction ", h("small", {}, start.anchors.length ? "among the label words" : "among these answers")), verdict, prediction,
        h("h3", {}, "Change the model or the prompt"), patches,
        h("h3", {}, "Logit lens ", h("small", {}, "whole vocabulary")), lens)));
  for (const [role, colour] of Object.entries(start.colours)) frame.style.setProperty(`--mx-${role}`, colour);
  root.replaceChildren(frame);

  /** Pictures by exchanged demonstration; null for the unchanged prompt. */
  const drawn = new Map();
  function pictureOf(exchange, which) {
    const key = `${exchange}-${which}`;
    if (!drawn.has(key)) {
      const { texts = {} } = start.exchanges.find((one) => one.number === exchange) ?? {};
      drawn.set(key, makePicture(start, start.tokens.map((one, i) => (texts[i] ? { ...one, text: texts[i] } : one)), hears));
    }
    return drawn.get(key);
  }

  // -- what is shown of a layer

  /** Edges [query, key, value] of the layer in a view; in the current view, only of the heads shown. */
  function edges(view) {
    if (!view.saliency) return [];
    if (state.sight === "enrichment") {
      return view.reading[state.layer].map((value, key) => [start.target, key, value])
        .filter(([, key, value]) => key !== start.target && value >= 1).sort((a, b) => b[2] - a[2]).slice(0, 40);
    }
    if (state.sight === "attention" || view !== state.view || !state.heads || !state.off.size) return view[state.sight].edges[state.layer];
    return state.heads.edges
      .map(([query, key], i) => {
        const sum = state.heads.values[i].reduce((total, value, head) => (state.off.has(head) ? total : total + value), 0);
        return [query, key, Math.abs(sum)];
      })
      .filter((edge) => edge[2] > 0)
      .sort((a, b) => b[2] - a[2])
      .slice(0, Math.max(40, view.saliency.edges[state.layer].length));
  }

  /** The changes that are on, in words. */
  function named({ isolate, drop, own, heads, exchange }) {
    const one = start.exchanges.find(({ number: n }) => n === exchange);
    return [
      isolate && `label words isolated in layers ${isolate[0]} to ${isolate[1]}`, drop != null && `layer ${drop} dropped`,
      ...heads.map(([layer, head]) => `head ${head} of layer ${layer} ablated`), ...own,
      one && `label word of demonstration ${one.number + 1} exchanged`,
    ].filter(Boolean).join(", ");
  }

  function draw() {
    const shown = [[state.switches, state.view]];
    if (state.beside && on()) shown.unshift([NONE, start.view]);
    const used = shown.map(([{ exchange }], i) => pictureOf(exchange, shown.length > 1 ? i : 0));
    if (pictures.children.length !== used.length || used.some((one, i) => one.element !== pictures.children[i])) {
      pictures.replaceChildren(...used.map((one) => one.element));
    }
    pictures.classList.toggle("mx-two", used.length > 1);
    used.forEach((one, i) => {
      const [switches, view] = shown[i];
      const outlined = state.sight === "enrichment" && view.gathering
        ? view.gathering[state.layer].map((value, token) => [token, ofLog(value)]).filter(([, strength]) => strength) : [];
      one.draw({
        edges: edges(view), said: state.sight, token: state.token, folded: state.folded, outlined,
        heading: switches === NONE ? (used.length > 1 ? "Clean" : null) : `Changed: ${named(switches)}`,
        missing: view.saliency ? null : "This page keeps the answer under this change, not the edges; a notebook computes them.",
      });
    });
    foldAll.textContent = state.folded.size ? "Unfold all demonstrations" : "Fold all demonstrations";
    explained.textContent = EXPLAINED[state.sight];
    sights.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.sight === state.sight)));
    drawBars();
    describe(null);
  }

  const picture = () => pictureOf(state.switches.exchange, state.beside && on() ? 1 : 0);
  const name = (end) => picture().name(end);

  function describe(edge) {
    const view = state.view, layer = state.layer;
    if (edge) {
      const what = { saliency: `saliency ${number(edge.value)}, ${percent(edge.share)} of the largest`, attention: `${percent(edge.value)} of the attention`,
        enrichment: `${times(edge.value)} an average token` }[edge.said];
      readout.replaceChildren(name(edge.query), " reads ", name(edge.key), `: ${what}`);
      return;
    }
    if (!view.saliency) { readout.replaceChildren(); return; }
    const seen = edges(view);
    if (state.token != null) return describeToken(seen);
    if (state.sight === "enrichment") return describeEnrichment(seen);
    if (!seen.length) {
      readout.replaceChildren(state.off.size === start.heads ? "No head is shown." : "Nothing flows here: the loss does not depend on this layer's attention.");
      return;
    }
    const [query, key] = seen[0], { total, shown, sink } = view[state.sight];
    const whole = state.sight === "saliency" ? "the layer’s saliency" : "the attention that does not go to position 0";
    const cut = state.off.size && state.sight === "saliency"
      ? `the ${seen.length} strongest edges of the heads that are shown`
      : `the ${seen.length} strongest of ${total[layer]} edges, ${percent(shown[layer])} of ${whole}`;
    readout.replaceChildren(`Drawn: ${cut}. Strongest: `, name(query), " reads ", name(key), ".",
      ...(sink ? [` Position 0 takes ${percent(sink[layer])} of all attention.`] : []));
  }

  function describeEnrichment(seen) {
    const enriched = state.view.enriched?.[state.layer];
    const most = seen.length ? ["The target reads ", name(seen[0][1]), ` most: ${times(seen[0][2])} an average token.`] : ["The target reads no token more than an average one."];
    readout.replaceChildren(...(enriched ? [`Label words are read ${times(enriched[0])} as much as an average token (random text ${number(enriched[1])}), and gather ${times(enriched[2])} as much (random text ${number(enriched[3])}). `] : []), ...most);
  }

  function describeToken(seen) {
    const { token, layer, view } = state;
    const reads = seen.find(([query]) => query === token), readBy = seen.find(([, key]) => key === token);
    const all = h("button", { type: "button", class: "mx-link", onclick: () => follow(null) }, "Show all");
    const links = [...(reads ? [" It reads most from ", name(reads[1]), "."] : []), ...(readBy ? [" Most read by ", name(readBy[0]), "."] : []), " ", all];
    const said = {
      saliency: `${percent(view.into[layer][token])} of the layer’s saliency flows into it, ${percent(view.out[layer][token])} out of it.`,
      attention: "its strongest edges.",
      enrichment: `it gathers ${times(view.gathering[layer][token])} as much as an average token, and the target reads it ${times(view.reading[layer][token])} as much.`,
    }[state.sight];
    readout.replaceChildren(name(token), ` (token ${token}): ${said}`, ...links);
  }

  /** Above the slider, by layer: where information flows; or, for a followed token, how much flows in and out. */
  function drawBars() {
    const view = state.view.saliency ? state.view : start.view, { token, sight } = state;
    let title = sight, parts = ["wp", "pq", "ww"], rows = view.flow ?? view.into.map(() => []), full = 1, pair = false;
    if (sight === "attention") { parts = ["ww"]; rows = view.attention.sink.map((share) => [share]); }
    if (sight === "enrichment") {
      pair = true;
      parts = ["wp", "pq"];
      rows = (view.enriched ?? view.into.map(() => [0, 0, 0, 0])).map(([read, , gather]) => [ofLog(gather), ofLog(read)]);
    }
    if (token != null && sight !== "attention") {
      parts = ["in", "out"];
      title = pair ? "tokenEnrichment" : "token";
      rows = view.into.map((into, layer) => (pair ? [ofLog(view.gathering[layer][token]), ofLog(view.reading[layer][token])] : [into[token], view.out[layer][token]]));
      // A single token's share is small, so its bars are scaled to its largest layer, whose share the caption gives.
      if (!pair) full = Math.max(...rows.map(([into, out]) => into + out), 1e-30);
    }
    bars.classList.toggle("mx-pair", pair);
    bars.replaceChildren(...rows.map((row, layer) =>
      h("div", { class: layer === state.layer ? "mx-now" : "", onclick: () => { stop(); toLayer(layer); } },
        ...parts.map((part, i) => h("i", { class: `mx-bar mx-${part}`, style: `height:${100 * (row[i] ?? 0) / full}%` })))));
    largest.textContent = `share of the layer’s saliency, at most ${percent(full)}`;
    for (const [key, node] of Object.entries(captions)) node.classList.toggle("mx-absent", key !== title);
  }

  // -- prediction, guesses, heads, changes

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
        const shown = label(row[i]);
        cells.push(h("td", { style: `--mx-share:${row[i + 1]}`, title: `${shown.textContent}: ${percent(row[i + 1])}` }, shown));
      }
      return h("tr", {}, h("th", { scope: "row" }, point ? `after ${point - 1}` : "embedding"), ...cells,
        h("td", { class: "mx-value" }, percent(row[1])));
    });
    lens.replaceChildren(head, h("div", { class: "mx-scroll", tabindex: 0, role: "region", "aria-label": "Logit lens by layer" }, h("table", {}, h("tbody", {}, ...rows))));
    lensFollows();
  }

  /** Mark the lens's row after the layer, and scroll to it inside its own box. */
  function lensFollows() {
    const box = lens.querySelector(".mx-scroll");
    lens.querySelectorAll("tr").forEach((row, point) => {
      const now = point === state.layer + 1;
      row.classList.toggle("mx-now", now);
      if (now) box.scrollTop += row.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
    });
  }

  function drawHeads() {
    const every = Array.from({ length: start.heads }, (_, i) => i);
    headBox.hidden = state.sight !== "saliency" || !state.view.saliency;
    headBox.replaceChildren(h("span", { id: `${id}-heads` }, `Heads shown in layer ${state.layer}`),
      h("div", { class: "mx-headrow", role: "group", "aria-labelledby": `${id}-heads` },
        ...every.map((head) =>
          h("button", {
            type: "button", class: "mx-head", "aria-pressed": String(!state.off.has(head)), "aria-label": `show head ${head}`,
            onclick: () => toggleHead(head), ondblclick: () => setHeads(new Set(every.filter((i) => i !== head))),
          }, String(head)))),
      h("button", { type: "button", class: "mx-link", "data-heads": "all", onclick: () => setHeads(new Set()) }, "all"),
      h("button", { type: "button", class: "mx-link", onclick: () => setHeads(new Set(every)) }, "none"),
      h("span", { class: "mx-soft" }, "only what is drawn; the model uses every head. Double-click: one alone."));
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
      if (answer.error) { state.off = new Set(); tell(answer.error); }
      else state.heads = answer.value;
      updateHeads();
    }
    draw();
  }

  function updateHeads() {
    headBox.querySelectorAll(".mx-head").forEach((button, head) => button.setAttribute("aria-pressed", String(!state.off.has(head))));
  }

  const changes = makeChanges(start, source, (change) => switchTo(change), () => { state.beside = changes.beside(); draw(); });
  patches.replaceChildren(...changes.elements);

  function tell(error) {
    trouble.hidden = !error;
    trouble.textContent = error ?? "";
  }

  async function switchTo(switches) {
    state.switches = switches;
    const answer = on() ? await answered("view", switches) : { value: start.view };
    if (state.switches !== switches) return;
    tell(answer.error);
    if (answer.error) return;
    state.view = answer.value;
    state.heads = null;
    state.off = new Set();
    state.beside = changes.beside();
    drawPrediction();
    drawHeads();
    draw();
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

  function see(sight) {
    state.sight = sight;
    drawHeads();
    draw();
  }

  function fold(number) {
    const folded = new Set(state.folded);
    if (!folded.delete(number)) folded.add(number);
    state.folded = folded;
    draw();
  }

  function toLayer(layer) {
    state.layer = layer;
    slider.value = layer;
    slider.setAttribute("aria-valuetext", `layer ${layer} of 0 to ${start.layers - 1}`);
    where.textContent = `layer ${layer}`;
    state.heads = null;
    state.off = new Set();
    drawHeads();
    draw();
    lensFollows();
  }

  async function follow(token) {
    state.token = token;
    draw();
    await showGuesses();
  }

  async function showGuesses() {
    const { token, view, switches } = state;
    if (!view.guesses) state.guesses = "This page keeps the answer under this change, not the lens; a notebook computes it.";
    else if (token == null || token === start.target) state.guesses = view.guesses;
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

  const resized = new ResizeObserver(() => { fitTheme(); draw(); });
  resized.observe(pictures);
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
