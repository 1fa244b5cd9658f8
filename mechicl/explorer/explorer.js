// The explorer, loaded after its parts. It serves both as a Jupyter widget that asks the kernel (the default export, for
// anywidget) and as a page that holds precomputed views (openPage).

export default {
  render({ model, el }) {
    return mount(el, model.get("start"), fromKernel(model));
  },
};

function openPage(document) {
  const start = JSON.parse(document.getElementById("start").textContent);
  mount(document.getElementById("explorer"), start, fromPage(start.kept));
}

/** A notebook has commands on plain keys (arrows, b, d d); plain keys pressed in here stay here. */
function keepKeys(event) {
  if (!(event.ctrlKey || event.metaKey || event.altKey)) event.stopPropagation();
}

const SIGHTS = {
  saliency: "Saliency", attention: "Attention", enrichment: "Enrichment",
};
const EXPLAINED = {
  saliency: "Saliency: how much the loss would change, to first order, if the edge were deleted (Eq. 1).",
  attention: "Attention: mean over heads, to earlier tokens other than position 0.",
  enrichment: "Enrichment: saliency relative to an average token; 1 is no preference. Arcs: what the target reads. Outlines: tokens that gather.",
};

let mounted = 0;

function mount(root, start, source) {
  const id = `mx${++mounted}`;
  const state = {
    layer: 0, token: null, view: start.view, switches: NONE, asked: NONE, sight: "saliency", beside: false,
    heads: null, off: new Set(), guesses: null, busy: 0,
    folded: new Set(start.tokens.length > LONG ? start.blocks.keys() : []),
  };
  const changed = () => !same(state.switches, NONE);

  const name = (end) => pictureOf(state.switches.exchange, state.beside && changed() ? 1 : 0).name(end);
  const readout = makeReadout(start, name, follow);
  const layers = makeLayers(start, id, toLayer, (playing) => readout.live(!playing));
  const heads = makeHeads(start, id, hideHeads);
  const prediction = makePrediction(start);
  const lens = makeLens(start, name);
  const changes = makeChanges(start, source, switchTo, () => { state.beside = changes.beside(); draw(); });

  const sights = h("div", { class: "mx-sights", role: "group", "aria-label": "What arcs show" },
    ...Object.entries(SIGHTS).map(([sight, said]) =>
      h("button", { type: "button", class: "mx-sight", "aria-pressed": "false", "data-sight": sight, onclick: () => see(sight) }, said)));
  const explained = h("span", { class: "mx-soft" });
  const foldAll = h("button", { type: "button", class: "mx-link", hidden: start.tokens.length <= LONG || !start.blocks.length, onclick: () => {
    state.folded = new Set(state.folded.size ? [] : start.blocks.keys());
    draw();
  } });
  const trouble = h("p", { class: "mx-error", role: "alert", hidden: true });
  const pictures = h("div", { class: "mx-pictures" });
  const frame = h(
    "section", { class: "mx", lang: "en", "aria-label": "Explorer of one prompt", onkeydown: keepKeys },
    header(start), trouble,
    h("div", { class: "mx-columns" },
      h("div", { class: "mx-main" },
        ...layers.elements, h("div", { class: "mx-tools" }, sights, explained, foldAll), pictures, readout.element, heads.element),
      h("aside", { class: "mx-side" },
        h("h3", {}, "Prediction ", h("small", {}, start.anchors.length ? "among the label words" : "among these answers")), ...prediction.elements,
        h("h3", {}, "Change the model or the prompt"), h("div", { class: "mx-patches" }, ...changes.elements),
        h("h3", {}, "Logit lens ", h("small", {}, "whole vocabulary")), lens.element)));
  for (const [role, colour] of Object.entries(start.colours)) frame.style.setProperty(`--mx-${role}`, colour);
  root.replaceChildren(frame);

  // -- drawing

  /** Pictures by exchanged demonstration; null for the unchanged prompt. */
  const drawn = new Map();
  function pictureOf(exchange, which) {
    const key = `${exchange}-${which}`;
    if (!drawn.has(key)) {
      const { texts = {} } = start.exchanges.find((one) => one.number === exchange) ?? {};
      const tokens = start.tokens.map((one, i) => (texts[i] ? { ...one, text: texts[i] } : one));
      drawn.set(key, makePicture(start, tokens, { follow, fold, describe }));
    }
    return drawn.get(key);
  }

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
  function named({ isolate, drop, own, heads: ablated, exchange }) {
    const one = start.exchanges.find(({ number: n }) => n === exchange);
    return [
      isolate && `label words isolated in layers ${isolate[0]} to ${isolate[1]}`, drop != null && `layer ${drop} dropped`,
      ...ablated.map(([layer, head]) => `head ${head} of layer ${layer} ablated`), ...own,
      one && `label word of demonstration ${one.number + 1} exchanged`,
    ].filter(Boolean).join(", ");
  }

  function draw() {
    const shown = [[state.switches, state.view]];
    if (state.beside && changed()) shown.unshift([NONE, start.view]);
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
    layers.drawBars(state.view.saliency ? state.view : start.view, state, !state.view.saliency);
    describe(null);
  }

  function describe(edge, named) {
    if (edge) readout.ofEdge(edge, named);
    else readout.ofLayer(state, edges(state.view));
  }

  function drawHeads() {
    heads.element.hidden = state.sight !== "saliency" || !state.view.saliency;
    heads.draw(state.layer, state.off);
  }

  function tell(error) {
    trouble.hidden = !error;
    trouble.textContent = error ?? "";
  }

  // -- asking

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

  async function hideHeads(off) {
    state.off = off;
    heads.mark(off);
    if (off.size && !state.heads) {
      const { layer, switches } = state;
      const answer = await answered("heads", switches, layer);
      if (state.layer !== layer || state.switches !== switches) return;
      tell(answer.error);
      if (answer.error) state.off = new Set();
      else state.heads = answer.value;
      heads.mark(state.off);
    }
    draw();
  }

  /** Shows the answer under these changes; until it is there, and after an error, the picture is of the ones before. */
  async function switchTo(switches) {
    state.asked = switches;
    const answer = same(switches, NONE) ? { value: start.view } : await answered("view", switches);
    if (state.asked !== switches) return;
    tell(answer.error);
    if (answer.error) {
      state.asked = state.switches;
      changes.show(state.switches);
      return;
    }
    Object.assign(state, { switches, view: answer.value, heads: null, off: new Set(), beside: changes.beside() });
    prediction.draw(state.view.probs, changed());
    drawHeads();
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
    lens.draw(state);
  }

  // -- moving

  function see(sight) {
    state.sight = sight;
    tell();
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
    tell();
    Object.assign(state, { layer, heads: null, off: new Set() });
    layers.show(layer);
    drawHeads();
    draw();
    lens.toLayer(layer);
  }

  async function follow(token) {
    state.token = token;
    draw();
    await showGuesses();
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
  layers.drawPlay();
  toLayer(0);
  prediction.draw(state.view.probs, false);
  showGuesses();

  return () => {
    layers.stop();
    resized.disconnect();
    theme.removeEventListener("change", fitTheme);
    source.close();
  };
}

/** Model, task, and the legend of w, p and q. */
function header(start) {
  return h("header", { class: "mx-header" },
    h("div", { class: "mx-title" }, h("b", { title: start.model }, h("bdi", {}, start.model)),
      h("span", { title: start.task }, h("bdi", {}, start.task || "stored prompt")),
      h("span", {}, `${start.tokens.length} tokens`)),
    h("div", { class: "mx-legend" },
      ...(start.anchors.length ? [h("span", {}, h("i", { class: "mx-name mx-w" }, "w"), " demonstration text"),
        h("span", {}, h("i", { class: "mx-name mx-p" }, "p"), " label word")] : []),
      h("span", {}, h("i", { class: "mx-name mx-q" }, "q"), " target")));
}
