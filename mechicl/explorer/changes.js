// Controls for changes: isolation, the user's own patches, a dropped layer, ablated heads, an exchanged label
// word. Loaded before explorer.js.

/**
 * The controls. `changed` receives the switches that are on; a page keeps every change separately, so there one control
 * turns the others off. `compared` is told whether to show the clean picture next to it.
 */
function makeChanges(start, source, changed, compared) {
  let switches = NONE;
  const row = (control, text, more) => h("div", { class: "mx-patch" }, h("label", {}, control, text), more);
  const chosen = (text, select) => h("div", { class: "mx-patch mx-choice" }, h("label", {}, h("span", {}, text), select));
  const choice = (name, options, onchange) => h("select", { "aria-label": name, onchange }, h("option", { value: "" }, "none"), ...options);

  function set(change) {
    switches = source.live ? { ...switches, ...change } : { ...NONE, ...change };
    show();
    changed(same(switches, NONE) ? NONE : switches);
  }

  // Isolation: from any layer to any later one in a notebook, in the first layers on a page.
  const [first, last] = start.isolate ?? [0, 0];
  const ends = [["first isolated layer", first], ["last isolated layer", last]].map(([name, value]) =>
    h("input", { type: "number", min: 0, max: start.layers - 1, value, disabled: !source.live, "aria-label": name, onchange: () => isolate() }));
  const isolateBox = h("input", { type: "checkbox", role: "switch", onchange: () => isolate() });
  function isolate() {
    const [from, to] = ends.map((end) => Math.min(start.layers - 1, Math.max(0, Math.round(Number(end.value)) || 0)));
    ends[0].value = Math.min(from, to);
    ends[1].value = Math.max(from, to);
    if (isolateBox.checked || switches.isolate) set({ isolate: isolateBox.checked ? ends.map((end) => Number(end.value)) : null });
  }

  const ownBoxes = start.own.map((one) => h("input", {
    type: "checkbox", role: "switch",
    onchange: (event) => set({ own: source.live ? start.own.filter((_, i) => ownBoxes[i].checked) : event.target.checked ? [one] : [] }),
  }));

  const layers = Array.from({ length: start.layers }, (_, i) => i);
  const drop = choice("layer to drop", layers.map((i) => h("option", { value: i }, String(i))),
    () => set({ drop: drop.value === "" ? null : Number(drop.value) }));

  // Heads: all in a notebook, those that are kept on a page, each with its reading of label words.
  const heads = layers.flatMap((layer) => Array.from({ length: start.heads }, (_, head) => [layer, head]))
    .filter((one) => source.has({ ...NONE, heads: [one] }));
  const reading = (layer, head) => (start.view.heads ? ` (reads label words ${times(start.view.heads[layer][head])} as much as an average token)` : "");
  const head = choice("head to ablate", heads.map(([l, n], i) => h("option", { value: i }, `layer ${l}, head ${n}${reading(l, n)}`)), () => {
    const one = heads[Number(head.value)];
    const others = switches.heads.filter((other) => String(other) !== String(one));
    set({ heads: head.value === "" ? [] : source.live ? [...others, one].sort((a, b) => a[0] - b[0] || a[1] - b[1]) : [one] });
  });
  const ablated = h("div", { class: "mx-ablated" });

  const exchanges = start.exchanges.filter((one) => source.has({ ...NONE, exchange: one.number }));
  const word = (c) => start.classes[c].word.trim();
  const exchange = choice("label word to exchange", exchanges.map((one) =>
    h("option", { value: one.number }, `demonstration ${one.number + 1}: ${word(one.from)} → ${word(one.to)}`)), () => {
    beside.checked = exchange.value !== "" || beside.checked;
    set({ exchange: exchange.value === "" ? null : Number(exchange.value) });
  });

  const beside = h("input", { type: "checkbox", role: "switch", onchange: () => compared() });

  function show() {
    isolateBox.checked = switches.isolate != null;
    drop.value = switches.drop ?? "";
    ownBoxes.forEach((box, i) => (box.checked = switches.own.includes(start.own[i])));
    head.value = switches.heads.length === 1 ? heads.findIndex((one) => String(one) === String(switches.heads[0])) : "";
    exchange.value = switches.exchange ?? "";
    ablated.replaceChildren(...switches.heads.map(([layer, number]) => h("button", {
      type: "button", class: "mx-chip", "aria-label": `restore head ${number} of layer ${layer}`,
      onclick: () => set({ heads: switches.heads.filter((one) => String(one) !== String([layer, number])) }),
    }, `L${layer}H${number} ablated ×`)));
  }

  return {
    beside: () => beside.checked,
    show(those) {
      switches = those;
      show();
    },
    elements: [
      start.isolate ? row(isolateBox, h("span", {}, "Isolate label words"), h("span", { class: "mx-detail" }, "layers ", ends[0], " to ", ends[1])) : null,
      ...start.own.map((one, i) => row(ownBoxes[i], h("span", { title: one }, h("bdi", {}, one)))),
      chosen("Drop layer", drop),
      heads.length ? chosen("Ablate head", head) : null,
      ablated,
      exchanges.length ? chosen("Exchange the label word of a demonstration", exchange) : null,
      row(beside, h("span", {}, "Clean and changed side by side")),
      h("p", { class: "mx-soft" }, heads.length ? "Ablated heads write zero. " : null, source.live ? "Each change re-runs the model." : "One at a time on this page; in a notebook they combine."),
    ].filter(Boolean),
  };
}
