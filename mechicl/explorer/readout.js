// The line under the picture, which describes it in words. Loaded before explorer.js.

function percent(share) {
  if (share == null) return "–";
  if (share >= 0.99995) return "100 %";
  if (share > 0 && share < 0.0001) return "< 0.01 %";
  return `${(100 * share).toFixed(share < 0.1 || share > 0.995 ? 2 : 1)} %`;
}

const number = (value) => (value && value < 0.01 ? "< 0.01" : String(Number(Number(value).toPrecision(3))));
const times = (value) => `${number(value)} times`;

/** `name` gives a token's name in the picture; `follow` receives a token to follow, or null. */
function makeReadout(start, name, follow) {
  const element = h("p", { class: "mx-readout", role: "status" });
  const say = (...parts) => element.replaceChildren(...parts);

  /** `named` gives the names of the edge's own picture. Edges of folded tokens are sums, or the largest enrichment. */
  function ofEdge(edge, named) {
    const folded = [edge.query, edge.key].some((end) => typeof end !== "number");
    const summed = folded && edge.said !== "enrichment" ? ", summed over the tokens of folded demonstrations" : "";
    const what = { saliency: `saliency ${number(edge.value)}, ${percent(edge.share)} of the largest`, attention: summed ? `attention ${number(edge.value)}` : `${percent(edge.value)} of the attention`,
      enrichment: `${times(edge.value)} an average token${folded ? ", at its most enriched token" : ""}` }[edge.said];
    say(named(edge.query), " reads ", named(edge.key), `: ${what}${summed}`);
  }

  /** Describes the drawn edges: those of the followed token, the enrichment of label words, or the strongest. */
  function ofLayer(state, edges) {
    if (!state.view.saliency) return say();
    if (state.token != null) return ofToken(state, edges);
    if (state.sight === "enrichment") return ofEnrichment(state, edges);
    if (!edges.length) {
      return say(state.off.size === start.heads ? "No head is shown." : "Nothing flows here: the loss does not depend on this layer's attention.");
    }
    const { sight, layer, off } = state, [query, key] = edges[0], { total, shown, sink } = state.view[sight];
    const whole = sight === "saliency" ? "the layer’s saliency" : "the attention to earlier tokens other than position 0";
    const cut = off.size && sight === "saliency"
      ? `the ${edges.length} strongest edges of the heads that are shown`
      : `the ${edges.length} strongest of ${total[layer]} edges, ${percent(shown[layer])} of ${whole}`;
    say(`Drawn: ${cut}. Strongest: `, name(query), " reads ", name(key), ".",
      ...(sink ? [` Position 0 takes ${percent(sink[layer])} of all attention.`] : []));
  }

  function ofEnrichment({ view, layer }, edges) {
    const enriched = view.enriched?.[layer];
    const most = edges.length ? ["The target reads ", name(edges[0][1]), ` most: ${times(edges[0][2])} an average token.`] : ["The target reads no token more than an average one."];
    say(...(enriched ? [`Label words are read ${times(enriched[0])} as much as an average token (random text ${number(enriched[1])}), and gather ${times(enriched[2])} as much (random text ${number(enriched[3])}). `] : []), ...most);
  }

  function ofToken({ token, layer, view, sight }, edges) {
    const reads = edges.find(([query]) => query === token), readBy = edges.find(([, key]) => key === token);
    const all = h("button", { type: "button", class: "mx-link", onclick: () => follow(null) }, "Show all");
    const compared = sight !== "enrichment"; // whose only reader is the target
    const links = [...(compared && reads ? [" It reads most from ", name(reads[1]), "."] : []), ...(compared && readBy ? [" Most read by ", name(readBy[0]), "."] : []), " ", all];
    const said = {
      saliency: `${percent(view.into[layer][token])} of the layer’s saliency flows into it, ${percent(view.out[layer][token])} out of it.`,
      attention: "its strongest edges are drawn.",
      enrichment: `it gathers ${times(view.gathering[layer][token])} as much as an average token, and the target reads it ${times(view.reading[layer][token])} as much.`,
    }[sight];
    say(name(token), ` (token ${token}): ${said}`, ...links);
  }

  return { element, ofEdge, ofLayer, live: (on) => element.setAttribute("aria-live", on ? "polite" : "off") };
}
