"use strict";
const KINDS = {
  title: ".gtitle", heading: ".annotation-text", legend: ".legendtext", axis: "[class*='xtitle'], [class*='ytitle']",
  scale: ".cbtitle text, .cbaxis text",
};
// The areas between the axes of the panels that are shown.
function areas(plot) {
  return Object.values(plot._fullLayout._plots).map(({ xaxis, yaxis }) => [xaxis, yaxis])
    .filter(([x]) => x.visible)
    .map(([x, y]) => ({ left: x._offset, width: x._length, top: y._offset, height: y._length }));
}
// Draw a figure, and tell which of its texts stand outside of it or in a panel, and which overlap by more than a pixel
// or two.
async function measure(data, layout) {
  const plot = document.createElement("div");
  document.body.append(plot);
  await Plotly.newPlot(plot, data, layout, { staticPlot: true });
  const outer = plot.querySelector(".main-svg").getBoundingClientRect();
  const texts = [];
  const add = (kind, element) => {
    const { left, right, top, bottom, width } = element.getBoundingClientRect();
    const hidden = getComputedStyle(element).fillOpacity === "0" || getComputedStyle(element).fill.endsWith(", 0)");
    if (width && !hidden) texts.push({ kind, left, right, top, bottom, text: element.textContent.slice(0, 60) });
  };
  for (const [kind, selector] of Object.entries(KINDS)) plot.querySelectorAll(selector).forEach((one) => add(kind, one));
  plot.querySelectorAll(".subplot, .xy, [class*='xaxislayer'], [class*='yaxislayer']").forEach((layer) => {
    layer.querySelectorAll("[class*='tick'] > text").forEach((one) => add("tick", one));
  });
  const seen = new Set(), faults = [];
  for (const one of texts) {
    if (one.left < outer.left - 2 || one.right > outer.right + 2 || one.top < outer.top - 2 || one.bottom > outer.bottom + 2) {
      faults.push(`outside: ${one.text} (${one.kind})`);
    }
  }
  // Headings have their place above a panel, and names of levels stand in it.
  const panels = areas(plot).map((one) => ({ ...one, left: outer.left + one.left, top: outer.top + one.top }));
  for (const one of texts.filter((text) => text.kind !== "heading")) {
    const inside = panels.some((panel) => Math.min(one.right, panel.left + panel.width) - Math.max(one.left, panel.left) > 2
      && Math.min(one.bottom, panel.top + panel.height) - Math.max(one.top, panel.top) > 2);
    if (inside) faults.push(`in a panel: ${one.text} (${one.kind})`);
  }
  texts.forEach((one, i) => texts.slice(i + 1).forEach((other) => {
    const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    const same = one.text === other.text && across === one.right - one.left && down === one.bottom - one.top;
    const least = one.kind === "tick" && other.kind === "tick" ? 3 : 2;
    if (across > least && down > least && !same) faults.push(`overlap: ${one.text} | ${other.text} (${one.kind}, ${other.kind})`);
  }));
  Plotly.purge(plot);
  plot.remove();
  return faults.slice(0, 8);
}
