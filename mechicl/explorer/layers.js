// The layers from shallow to deep: a slider, and above it a bar for each layer. Loaded before explorer.js.

/** Height of a factor in a bar: 1 and less at its foot, 100 and more at its top. */
const ofLog = (factor) => Math.min(1, Math.max(0, Math.log10(Math.max(factor, 1e-9)) / 2));

/** Legend of the colours above the slider, and what is measured. */
const caption = (measure, ...parts) =>
  h("div", {}, ...parts.map(([part, says]) => h("span", {}, h("i", { class: `mx-swatch mx-${part}` }), says)), h("span", {}, measure));

/** `to` receives a chosen layer, `playing` whether the layers play. */
function makeLayers(start, id, to, playing) {
  const slider = h("input", {
    type: "range", min: 0, max: start.layers - 1, value: 0, id: `${id}-layer`, "aria-label": "Layer",
    oninput: () => choose(Number(slider.value)),
  });
  const play = h("button", { type: "button", class: "mx-play", disabled: start.layers < 2, onclick: () => (timer ? stop() : run()) });
  const where = h("output", { class: "mx-where", for: `${id}-layer` });
  const bars = h("div", { class: "mx-bars", "aria-hidden": "true" });
  const largest = h("span", {}, "share of the layer’s saliency");
  const ofClean = h("p", { class: "mx-soft", hidden: true }, "These bars are the clean model’s.");
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
  let layer = 0, timer = null;

  function choose(chosen) {
    stop();
    to(chosen);
  }

  /** Bars by layer: where information flows; or, for a followed token, how much flows in and out. */
  function rowsOf(view, { token, sight }) {
    if (sight === "attention") return { title: sight, parts: ["ww"], rows: view.attention.sink.map((share) => [share]) };
    const pair = sight === "enrichment";
    if (token != null) {
      const rows = view.into.map((into, i) =>
        pair ? [ofLog(view.gathering[i][token]), ofLog(view.reading[i][token])] : [into[token], view.out[i][token]]);
      return { title: pair ? "tokenEnrichment" : "token", parts: ["in", "out"], rows, pair };
    }
    if (!pair) return { title: sight, parts: ["wp", "pq", "ww"], rows: view.flow ?? view.into.map(() => []) };
    const enriched = view.enriched ?? view.into.map(() => [0, 0, 0, 0]);
    return { title: sight, parts: ["wp", "pq"], rows: enriched.map(([read, , gather]) => [ofLog(gather), ofLog(read)]), pair };
  }

  /** `clean`: the view is the clean model's, in place of one that was not kept. */
  function drawBars(view, state, clean) {
    ofClean.hidden = !clean;
    const { title, parts, rows, pair } = rowsOf(view, state);
    // A single token's share is small, so its bars are scaled to its largest layer, whose share the caption gives.
    const full = title === "token" ? Math.max(...rows.map(([into, out]) => into + out), 1e-30) : 1;
    bars.classList.toggle("mx-pair", Boolean(pair));
    bars.replaceChildren(...rows.map((row, i) =>
      h("div", { class: i === layer ? "mx-now" : "", onclick: () => choose(i) },
        ...parts.map((part, j) => h("i", { class: `mx-bar mx-${part}`, style: `height:${100 * (row[j] ?? 0) / full}%` })))));
    largest.textContent = `share of the layer’s saliency, at most ${percent(full)}`;
    for (const [key, node] of Object.entries(captions)) node.classList.toggle("mx-absent", key !== title);
  }

  function show(chosen) {
    layer = chosen;
    slider.value = layer;
    slider.setAttribute("aria-valuetext", `layer ${layer} of 0 to ${start.layers - 1}`);
    where.textContent = `layer ${layer}`;
  }

  function run() {
    if (layer === start.layers - 1) to(0);
    timer = setInterval(() => {
      to(layer + 1);
      if (layer === start.layers - 1) stop();
    }, 1100);
    drawPlay();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    drawPlay();
  }

  function drawPlay() {
    playing(timer !== null);
    play.textContent = timer ? "❚❚" : "▶";
    play.setAttribute("aria-label", timer ? "Pause" : "Play from shallow to deep layers");
  }

  const scrub = h("div", { class: "mx-scrub", style: `--layers:${start.layers}` }, bars, slider);
  return {
    elements: [h("div", { class: "mx-depth" }, play, scrub, where), h("div", { class: "mx-note" }, ...Object.values(captions)), ofClean],
    show, drawBars, drawPlay, stop,
  };
}
