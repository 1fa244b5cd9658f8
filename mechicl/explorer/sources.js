// Sources of numbers: a kernel that is asked, or a page that holds precomputed views. Loaded before explorer.js.

const NONE = { isolate: null, drop: null, own: [], heads: [], exchange: null };

/** Asks the kernel; an answer carries the number of its request, and of the view, as all views hear all answers. */
function fromKernel(model) {
  const waiting = new Map(), view = Math.random().toString(36).slice(2);
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
        const id = `${view}-${++last}`;
        waiting.set(id, { resolve, reject });
        model.send({ id, ask, switches, about });
      }),
    close: () => model.off("msg:custom", hear),
  };
}

/** Looks up what the page holds: some patches, one at a time; heads and guesses without patches. */
function fromPage(kept) {
  const found = (switches) => kept.views.find((one) => same(one.switches, switches))?.view;
  return {
    live: false,
    has: (switches) => found(switches) !== undefined,
    async ask(ask, switches, about = 0) {
      if (ask === "view") return found(switches);
      if (!same(switches, NONE)) throw new Error("This page keeps heads and the lens of the clean model only; a notebook computes them under changes.");
      if (!kept[ask][about]) throw new Error("This page keeps the lens at label words and at the last tokens; a notebook computes it at every token.");
      return kept[ask][about];
    },
    close: () => {},
  };
}

const same = (a, b) => JSON.stringify(order(a)) === JSON.stringify(order(b));
const order = ({ isolate, drop, own, heads, exchange }) => [isolate, drop, [...own].sort(), heads, exchange];
