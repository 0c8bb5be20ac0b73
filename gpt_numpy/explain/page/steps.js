// Step by step: the backward pass in the order in which it is done, with what is known and what is asked at each step.

const STEPS = [
  {
    title: "Start at the loss", known: ["p", "next"], asked: ["dZ"], forward: ["p", "l", "L"],
    text: "Nothing is known yet but the forward pass. The loss is the mean surprise, and through log and softmax " +
      "together its gradient comes out as simply as can be: the probability minus the target, over " +
      "the T positions of the mean.",
  }, {
    title: "The road back to Y", known: ["dZ"], asked: ["dN_f", "dR_f", "dY"], forward: ["Z"],
    text: "The logits were a product of N_f and W_lm, so the gradient goes back through the same weights. Then " +
      "through the last layer norm to the stream, which carries it back unchanged; each later sublayer that has " +
      "read the stream adds what comes back through it. The accounts follow every one of these sums.",
  }, {
    title: "Through the output weights", known: ["dY", "O"], asked: ["dO", "dW_o"], forward: ["Y"],
    text: "A matrix product has two gradients: for what went in, the gradient times the weights; for the weights, " +
      "the gradient times what went in, summed over all positions. Only this head’s columns of W_o lead to this " +
      "O.",
  }, {
    title: "To the values", known: ["dO", "P"], asked: ["dV"], forward: ["O"],
    text: "O took from each value by the weight P, so each value gets the gradient back by the same weight. In the " +
      "forward pass i sums over j; backwards j sums over i, over all the positions that looked at it.",
  }, {
    title: "To the weights of attention", known: ["dO", "V"], asked: ["dP"], forward: ["O"],
    text: "How would the loss change if i gave j a little more weight? O would move by the value of j, so the " +
      "answer is the dot product of that value with dO. That the weights of a row add up to 1 is softmax’s " +
      "affair, and comes next.",
  }, {
    title: "Through softmax", known: ["dP", "P"], asked: ["dS"], forward: ["P"],
    text: "The weights of a row share 1 between them: a larger score takes weight from all others. So what counts " +
      "is by how much more j raises the loss than the weighted mean of its row does. That mean is taken off, and so " +
      "each row of dS sums to 0. Where dS is positive, a training step lowers the score.",
  }, {
    title: "To the queries", known: ["dS", "K"], asked: ["dQ"], forward: ["S"],
    text: "Each score was a dot product of a query and a key, times c. Back to the query: the keys that it was " +
      "compared with, each by its dS, and the same c once more.",
  }, {
    title: "To the keys", known: ["dS", "Q"], asked: ["dK"], forward: ["S"],
    text: "The same line for its other factor. The sum now runs down a column of dS, over the positions that " +
      "compared themselves with this key: dS is transposed.",
  }, {
    title: "All uses of X", known: ["dQ", "dK", "dV"], asked: ["dX"], forward: ["Q", "K", "V"],
    text: "X was used three times, by Q, K and V, and as often in every other head. What is used several times gets " +
      "the sum of all that comes back: this is why the code says += there, and never =.",
  }, {
    title: "The weights of Q, K and V", known: ["dQ", "dK", "dV", "X"], forward: ["Q", "K", "V"],
    asked: ["dW_q", "dW_k", "dW_v", "db_q", "db_k", "db_v"],
    text: "As with W_o: the gradient times what went in, summed over positions, since one matrix serves them all. " +
      "The biases get the plain sums. That of K is 0: a bias adds the same to every score of a row, and softmax " +
      "does not see it.",
  }, {
    title: "On to the stream", known: ["dX"], asked: ["dR"], forward: ["X"],
    text: "Last through the layer norm. It took off the mean and divided by the spread; backwards the first sum " +
      "takes off a mean again, the second what goes along n, since a step along n only changes the spread. This is " +
      "added to dY, which passes by on the stream, and the layer before goes on from there.",
  },
];

function showStep(number, go) {
  const box = byId("step"), step = STEPS[number - 1];
  box.hidden = !step;
  byId("walk").setAttribute("aria-expanded", String(Boolean(step)));
  byId("walk").textContent = step ? "Leave the steps" : "Step by step";
  document.body.classList.toggle("stepping", Boolean(step));
  for (const view of views.values()) markView(view, step);
  drawArrows();
  if (!step) return;
  box.dataset.step = number;
  box.replaceChildren();
  const head = put(box, "div", { class: "head" });
  put(head, "h3", {}, `${number}. ${step.title}`);
  putButtons(head, number, go);
  put(box, "p", {}, step.text);
  const lines = put(box, "div", { class: "lines" });
  putLines(lines, "forward", step.forward);
  putLines(lines, "backward", step.asked);
}

function putButtons(parent, number, go) {
  const row = put(parent, "span", { class: "buttons" });
  const button = (text, label, to) => {
    const one = put(row, "button", { type: "button", "aria-label": label }, text);
    one.disabled = to < 1 || to > STEPS.length;
    one.onclick = () => {
      go({ step: to });
      byId("step").querySelector(`[aria-label="${label}"]`)?.focus();
    };
  };
  button("←", "previous step", number - 1);
  put(row, "span", { class: "quiet" }, `${number} of ${STEPS.length}`);
  button("→", "next step", number + 1);
}

function putLines(parent, title, names) {
  const box = put(parent, "div");
  put(box, "span", { class: "quiet" }, title);
  for (const quantity of names.map(name => quantities.get(name)).filter(Boolean))
    putWrapped(put(box, "div"), quantity, quantity.formula);
}

/** In words as well as by light: what is known at a step, and what is asked. */
function markView(view, step) {
  const { name } = view.quantity, role = ["asked", "known"].find(one => step?.[one].includes(name)) ?? "";
  view.figure.dataset.role = role;
  view.badge.textContent = role;
}
