// Prediction, logit lens, and the heads that are drawn. Loaded before explorer.js.

/** Probabilities of the label words, and those of the clean model if something is changed. */
function makePrediction(start) {
  const verdict = h("p", { class: "mx-verdict", role: "status" });
  const classes = h("div", { class: "mx-prediction" });
  const best = (probs) => probs.indexOf(Math.max(...probs));
  const word = (c) => h("b", {}, label(start.classes[c].word));
  const gold = (answer) => (start.gold == null ? ["."] : answer === start.gold ? [", which is right."] : [", which is wrong."]);

  function draw(after, changed) {
    const before = start.view.probs;
    verdict.replaceChildren(...(!changed
      ? ["The model answers ", word(best(before)), ...gold(best(before))]
      : best(before) === best(after)
        ? ["Still ", word(best(after)), `: ${percent(before[best(after)])} → ${percent(after[best(after)])}`]
        : ["Changed from ", word(best(before)), " to ", word(best(after)), ...gold(best(after))]));
    classes.replaceChildren(...start.classes.map((one, c) =>
      h("div", { class: `mx-class${best(after) === c ? " mx-best" : ""}` },
        h("span", { class: "mx-word", title: one.name }, label(one.word), c === start.gold ? h("small", {}, " true") : null),
        h("span", { class: "mx-meter" },
          h("i", { class: "mx-after", style: `width:${100 * after[c]}%` }),
          changed ? h("i", { class: "mx-before", style: `left:${100 * before[c]}%` }) : null),
        h("span", { class: "mx-value" }, changed ? `${percent(before[c])} → ${percent(after[c])}` : percent(after[c])))));
  }

  return { elements: [verdict, classes], draw };
}

/** The logit lens at one token: its most probable next tokens after each layer. */
function makeLens(start, name) {
  const element = h("div", { class: "mx-lens" });

  /** `guesses` are rows of tokens and probabilities, or why there are none. */
  function draw({ token, guesses, layer }) {
    const head = h("p", { class: "mx-note" }, "What the model would say next after ", name(token ?? start.target),
      token == null ? ", the target" : "", ", were each layer the last.");
    if (typeof guesses === "string") return element.replaceChildren(head, h("p", { class: "mx-soft" }, guesses));
    const rows = (guesses ?? []).map((row, point) => {
      const cells = [];
      for (let i = 0; i < row.length; i += 2) {
        const shown = label(row[i]);
        cells.push(h("td", { style: `--mx-share:${row[i + 1]}`, title: `${shown.textContent}: ${percent(row[i + 1])}` }, shown));
      }
      return h("tr", {}, h("th", { scope: "row" }, point ? `after ${point - 1}` : "embedding"), ...cells,
        h("td", { class: "mx-value" }, percent(row[1])));
    });
    element.replaceChildren(head, h("div", { class: "mx-scroll", tabindex: 0, role: "region", "aria-label": "Logit lens by layer" }, h("table", {}, h("tbody", {}, ...rows))));
    toLayer(layer);
  }

  /** Mark the row after the layer, and scroll to it inside its own box. */
  function toLayer(layer) {
    const box = element.querySelector(".mx-scroll");
    element.querySelectorAll("tr").forEach((row, point) => {
      const now = point === layer + 1;
      row.classList.toggle("mx-now", now);
      if (now) box.scrollTop += row.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
    });
  }

  return { element, draw, toLayer };
}

/** Buttons for the heads that are drawn in a layer; `hides` receives the set of heads that are not. */
function makeHeads(start, id, hides) {
  const element = h("div", { class: "mx-heads" });
  const every = Array.from({ length: start.heads }, (_, i) => i);

  let off = new Set();

  function draw(layer, hidden) {
    off = hidden;
    element.replaceChildren(h("span", { id: `${id}-heads` }, `Heads shown in layer ${layer}`),
      h("div", { class: "mx-headrow", role: "group", "aria-labelledby": `${id}-heads` },
        ...every.map((head) =>
          h("button", {
            type: "button", class: "mx-head", "aria-pressed": String(!off.has(head)), "aria-label": `show head ${head}`,
            onclick: () => toggle(head), ondblclick: () => hides(new Set(every.filter((i) => i !== head))),
          }, String(head)))),
      h("button", { type: "button", class: "mx-link", "data-heads": "all", onclick: () => hides(new Set()) }, "all"),
      h("button", { type: "button", class: "mx-link", onclick: () => hides(new Set(every)) }, "none"),
      h("span", { class: "mx-soft" }, "These buttons change the drawing, not the model. Double-click: one head alone."));
  }

  function toggle(head) {
    const hidden = new Set(off);
    if (!hidden.delete(head)) hidden.add(head);
    hides(hidden);
  }

  /** Update which buttons are pressed; the buttons remain, and so does the keyboard's focus. */
  function mark(hidden) {
    off = hidden;
    element.querySelectorAll(".mx-head").forEach((button, head) => button.setAttribute("aria-pressed", String(!off.has(head))));
  }

  return { element, draw, mark };
}
