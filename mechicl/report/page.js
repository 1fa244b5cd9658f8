"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const pointer = matchMedia("(hover: hover)");
const style = JSON.parse(document.getElementById("style").textContent);
const figures = new Map(); // each figure and its JSON

async function unpack(element) {
  const packed = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// The widest layout that fits: in a narrower plot than it was made for, texts would overlap.
function widthFor(figure) {
  const room = figure.querySelector(".plot").clientWidth;
  return style.widths.find((width) => width <= room) ?? style.widths.at(-1);
}

function draw(figure, light) {
  const shown = dark.matches && !light;
  let text = figures.get(figure);
  if (shown) text = text.replaceAll(`"${style.ink}"`, `"${style.light_ink}"`);
  for (const [light, lighter] of Object.entries(shown ? style.text_on_dark : {})) text = text.replaceAll(`color:${light}`, `color:${lighter}`);
  const width = figure.dataset.width = widthFor(figure);
  const { data, layouts } = JSON.parse(text);
  const { layout, traces } = layouts[width];
  for (const [place, changes] of Object.entries(traces)) Object.assign(data[place], changes);
  layout.template = shown ? style.dark : style.light;
  layout.datarevision = `${shown} ${width}`;
  const plot = figure.querySelector(".plot");
  plot.style.height = `${layout.height}px`;
  Plotly.react(plot, data, layout, {
    displaylogo: false, responsive: true, toImageButtonOptions: { format: "svg" },
    displayModeBar: pointer.matches ? "hover" : false, // where nothing hovers it would always lie over the panels' names
  });
}

const drawAll = (light) => figures.forEach((_, figure) => draw(figure, light === true));
const drawResized = () => figures.forEach((_, figure) => {
  if (Number(figure.dataset.width) !== widthFor(figure)) draw(figure);
});

async function load() {
  const script = document.createElement("script");
  script.textContent = await unpack(document.getElementById("plotly"));
  document.head.append(script);
  for (const figure of document.querySelectorAll("figure")) {
    figures.set(figure, await unpack(figure.querySelector("script")));
  }
}

load().then(() => {
  drawAll();
  dark.addEventListener("change", drawAll);
  addEventListener("resize", drawResized);
  addEventListener("beforeprint", () => drawAll(true));
  addEventListener("afterprint", drawAll);
}).catch((error) => {
  const said = `The figures were not drawn (${error.message}); all numbers are in the tables. Browsers since 2023 draw them.`;
  document.querySelectorAll(".plot").forEach((plot) => { plot.textContent = said; });
}).finally(() => { document.documentElement.dataset.drawn = "true"; });

// A page opened from disk has no navigator.clipboard: the copy event takes what it is given.
function copy(text) {
  const give = (event) => { event.clipboardData.setData("text/plain", text); event.preventDefault(); };
  document.addEventListener("copy", give, { once: true });
  const done = document.execCommand("copy");
  document.removeEventListener("copy", give);
  return done;
}

const inLine = (texts) => texts.map((text) => text.replace(/[\t\n\r]+/g, " ")).join("\t");
function inLines(table) { // with the columns that its caption has in their place
  const everywhere = JSON.parse(table.dataset.everywhere ?? "{}");
  const more = (row) => (row.parentElement.matches("thead") ? Object.keys : Object.values)(everywhere);
  return [...table.rows].map((row) => inLine([...more(row), ...[...row.cells].map((cell) => cell.textContent)]));
}
document.querySelectorAll("button.copy").forEach((button) => button.addEventListener("click", () => {
  const from = document.getElementById(button.dataset.copies);
  const done = copy(from.rows ? inLines(from).join("\n") : from.textContent);
  document.getElementById("status").textContent = done ? "Copied." : "Not copied: select it and copy by hand.";
  const label = button.textContent;
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}));
