// Step by step: the backward pass in its order, with the inputs and the results of each step.

const STEPS = [
  {
    title: "Start at the loss", known: ["p", "next", "q"], computed: ["dZ"],
    forward: ["p", "l", ...data.ofLoss], text: `Only the forward pass is known so far. ${data.aboutLoss}`,
  }, {
    title: "Back to Y", known: ["dZ"], computed: ["dN_f", "dR_f", "dY"], forward: ["Z"],
    text: "The logits are the product of N_f and W_lm, so the gradient goes back through the same weights, and then " +
      "through the last layer norm to the stream. The stream passes it back unchanged, and each later sublayer adds " +
      "the gradient from its input. Every one of these sums can be opened.",
  }, {
    title: "Through the output weights", known: ["dY", "O"], computed: ["dO", "dW_o"], forward: ["Y"],
    text: "A matrix product has two gradients: for its input, the output gradient times the weights; for the " +
      "weights, the output gradient times the input, summed over all positions. Only this head’s columns of W_o " +
      "multiply this O.",
  }, {
    title: "To the values", known: ["dO", "P"], computed: ["dV"], forward: ["O"],
    text: "O is a sum of values, each times its weight in P, so the gradient of each value is dO times the same " +
      "weight. The forward pass sums over j; the backward pass sums over i, over all positions that attend to j.",
  }, {
    title: "To the attention weights", known: ["dO", "V"], computed: ["dP"], forward: ["O"],
    text: "How would the loss change if i gave j a little more weight? O would move in the direction of the value at " +
      "j, so the answer is the dot product of that value with dO. That the weights of a row sum to 1 is left to the " +
      "next step, softmax.",
  }, {
    title: "Through softmax", known: ["dP", "P"], computed: ["dS"], forward: ["P"],
    text: "The weights of a row sum to 1, so a larger score takes weight from all the others. What counts is how " +
      "much more weight on j raises the loss than the weighted mean of its row. Subtracting that mean makes each row " +
      "of dS sum to 0. Where dS is positive, a training step lowers the score.",
  }, {
    title: "To the queries", known: ["dS", "K"], computed: ["dQ"], forward: ["S"],
    text: "Each score is c times the dot product of a query and a key. So the gradient of the query is the sum of " +
      "the keys that it attends to, each times its dS, times the same c.",
  }, {
    title: "To the keys", known: ["dS", "Q"], computed: ["dK"], forward: ["S"],
    text: "The same for the other factor. The sum now runs down a column of dS, over the queries that attend to this " +
      "key, so dS is transposed.",
  }, {
    title: "All uses of X", known: ["dQ", "dK", "dV"], computed: ["dX"], forward: ["Q", "K", "V"],
    text: "X is used three times in each head, by Q, K and V. The gradient of a value that is used several times is " +
      "the sum over its uses, which is why autograd code accumulates gradients with += and never assigns them.",
  }, {
    title: "The weights of Q, K and V", known: ["dQ", "dK", "dV", "X"], forward: ["Q", "K", "V"],
    computed: ["dW_q", "dW_k", "dW_v", "db_q", "db_k", "db_v"],
    text: "As with W_o: the output gradient times the input, summed over positions, which all share one matrix. The " +
      "gradients of the biases are plain sums over positions. K’s is 0: its bias adds the same number to all scores " +
      "of a row, and softmax ignores that.",
  }, {
    title: "On to the stream", known: ["dX"], computed: ["dR"], forward: ["X"],
    text: "Finally through the layer norm, which subtracts the mean and divides by the standard deviation. Shifting " +
      "or scaling a row changes nothing, so the two sums remove the gradient’s mean and its component along n. dR is " +
      "added to dY, which bypasses this sublayer, and the sum goes back to the sublayer before.",
  },
];

function showStep(number, navigate) {
  const box = byId("step"), step = STEPS[number - 1];
  box.hidden = !step;
  byId("toggle-steps").setAttribute("aria-expanded", String(Boolean(step)));
  byId("toggle-steps").textContent = step ? "Close the steps" : "Step by step";
  document.body.classList.toggle("stepping", Boolean(step));
  for (const view of views.values()) markView(view, step);
  drawArrows();
  if (!step) return;
  box.dataset.step = number;
  box.replaceChildren();
  const head = put(box, "div", { class: "head" });
  put(head, "h3", {}, `${number}. ${step.title}`);
  putButtons(head, number, navigate);
  put(box, "p", {}, step.text);
  const columns = put(box, "div", { class: "formulas" });
  putFormulas(columns, "forward", step.forward);
  putFormulas(columns, "backward", step.computed);
}

function putButtons(parent, number, navigate) {
  const row = put(parent, "span", { class: "buttons" });
  const putButton = (text, label, to) => {
    const button = put(row, "button", { type: "button", "aria-label": label }, text);
    button.disabled = to < 1 || to > STEPS.length;
    button.onclick = () => {
      navigate({ step: to });
      byId("step").querySelector(`[aria-label="${label}"]`)?.focus();
    };
  };
  putButton("←", "previous step", number - 1);
  put(row, "span", { class: "quiet" }, `${number} of ${STEPS.length}`);
  putButton("→", "next step", number + 1);
}

function putFormulas(parent, title, names) {
  const box = put(parent, "div");
  put(box, "span", { class: "quiet" }, title);
  for (const quantity of names.map(name => quantities.get(name)).filter(one => one?.formula))
    putFormula(put(box, "div"), quantity, quantity.formula);
}

/** Shows the role of a matrix in a step as a badge; the style sheet dims matrices without a role. */
function markView(view, step) {
  const { name } = view.quantity, role = ["computed", "known"].find(key => step?.[key].includes(name)) ?? "";
  view.figure.dataset.role = role;
  view.badge.textContent = role;
}
