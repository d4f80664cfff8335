// A refusal in the words of the form, at the field that it is of.
//
//   DecoLab.worded(root, message, labels)     message.wrong: {names, rule, place} of deco_lab.workbench.bench.refusal
//
// Returns the sentence with the labels of the fields that stand beside a panel, by the classes "of-NAME",
// or "" where nothing is wrong; marks these fields, and takes back what was marked before. A folded form
// has no fields yet: `labels` may say what they will be called, by name, of several numbers a list.
(() => {
  "use strict";
  const INPUTS = "input, textarea, select";
  const labelOf = (field) =>
    (field.querySelector('[data-testid="block-info"]') || field.querySelector("label, legend, span")).textContent.trim();
  const lower = (label) => (/^[A-Z][a-z]/.test(label) ? label[0].toLowerCase() + label.slice(1) : label);

  function forget(form) {
    form.querySelectorAll(".dl-wrong").forEach((said) => {
      for (const input of said.parentElement.querySelectorAll(INPUTS))
        for (const name of ["aria-invalid", "aria-describedby"]) input.removeAttribute(name);
      said.remove();
    });
  }
  function mark(field, text) {
    const said = document.createElement("p");
    said.className = "dl-wrong";
    said.id = `dl-wrong-${field.id}`;
    said.textContent = text;
    field.append(said);
    for (const input of field.querySelectorAll(INPUTS)) {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", said.id);
    }
  }
  function worded(root, { wrong, of_form }, known = {}) {
    const form = root.closest(".workbench");
    if (!form) return "";
    forget(form);
    if (!wrong) return "";
    const fields = wrong.names.map((name) => {
      const which = `.of-${CSS.escape(name)}`;
      const all = [...form.querySelectorAll(which)].filter((field) => !field.parentElement.closest(which)); // Gradio nests some
      return all.length > 1 && wrong.place !== null ? [all[wrong.place]] : all;
    });
    // Of several numbers that are wrong together, what their labels have in common.
    const labels = fields.map((of, i) => (of.length ? of.map(labelOf) : [known[wrong.names[i]]].flat()))
      .map((of) => (of.length > 1 ? (wrong.place === null ? of[0].split(",")[0] : of[wrong.place]) : of[0]));
    if (labels.some((label) => !label)) return "";
    const text = `${labels.map((label, i) => (i ? lower(label) : label)).join(" and ")} ${wrong.rule}`;
    if (of_form !== false) fields.flat().forEach((field) => mark(field, text)); // else it says something else
    return text;
  }
  Object.assign(DecoLab, { worded });
})();
