// Curves over t that are drawn by hand, in the form: how much of guidance there is, and of the gains.
//
//   mountCurves(element, props, trigger, watch);     // Gradio's: props.value is JSON, {name: values}
//   DecoLab.tellRule(rule)                           the rule of guidance that the form says
//
// props.setup.groups are {name, group, label, bands, looks, range, rules, help}, one for each setting. Its
// curves stand one after the other in a list of values at evenly spaced times; what is 1 throughout is
// left out of what is told. A point is a slider: up and down move it, left and right go to its neighbours;
// the pointer draws.
function mountCurves(root, props, trigger, watch) {
  "use strict";
  const { svg, line, number } = DecoLab;
  const { groups } = props.setup;
  const POINTS = 11, FINE = 0.05, STEP = 0.1, LEAP = 0.5; // of a new curve; of pointer and keys
  const PATIENCE = 150; // ms after a key, before it is told
  const W = 264, H = 140, LEFT = 26, RIGHT = W - 8, TOP = 9, BOTTOM = H - 22;
  root.classList.add("dl", "dl-curves", ...groups.map(({ name }) => `of-${name}`)); // for refused.js
  root.innerHTML = `
    <span class="dl-curves-title">Curves over t</span>
    <select aria-label="Curve to draw">${groups.map((group, g) => `<optgroup label="${group.group}">${group.bands.map((_, k) =>
      `<option value="${g}.${k}"></option>`).join("")}</optgroup>`).join("")}</select>
    <p class="dl-note" data-say="help"></p>
    <div class="dl-curves-plot"></div>
    <p class="dl-note" data-say="changed" role="status"></p>
    <div class="dl-curves-do"><button type="button" class="dl-button" data-do="one">Reset this curve</button>
      <button type="button" class="dl-button" data-do="all">Reset all curves</button></div>`;
  const find = (selector) => root.querySelector(selector);
  const select = find("select"), plot = svg(find(".dl-curves-plot"), "svg", { viewBox: `0 0 ${W} ${H}`, role: "group" });
  const X = (t) => LEFT + t * (RIGHT - LEFT);
  const back = svg(plot, "g", {}), others = svg(plot, "g", { class: "dl-inside" });
  const drawing = svg(plot, "path", { class: "dl-curve-line" });
  let curves = {}, g = 0, k = 0, handles = [], timer = null, told = null;

  // ---- values --------------------------------------------------------------------------------------
  const nameOf = ({ label, bands }, band) => (bands.length > 1 ? `${label}, ${bands[band]}` : `${label}, all bands`);
  const pointsOf = ({ name, bands }) => (curves[name] ? curves[name].length / bands.length : POINTS);
  function valuesOf(group, band) {
    const points = pointsOf(group);
    return curves[group.name] ? curves[group.name].slice(points * band, points * (band + 1)) : Array(points).fill(1);
  }
  const isFlat = (group, band) => valuesOf(group, band).every((value) => value === 1);
  const isOffered = ({ rules }) => !rules || rules.includes(DecoLab.rule ?? props.setup.rule);
  function put(values) {
    const group = groups[g], points = pointsOf(group);
    const all = curves[group.name] ?? Array(points * group.bands.length).fill(1);
    all.splice(points * k, points, ...values);
    curves[group.name] = all;
    paint();
  }
  const text = () => JSON.stringify(Object.fromEntries(Object.entries(curves).filter(([, all]) => all.some((value) => value !== 1))));
  function tell() {
    clearTimeout(timer);
    if (text() === told) return;
    told = props.value = text();
    trigger("input");
  }
  function tellSoon() {
    clearTimeout(timer);
    timer = setTimeout(tell, PATIENCE);
  }

  // ---- the plot ------------------------------------------------------------------------------------
  const rangeOf = () => groups[g].range;
  const Y = (value) => {
    const [low, high] = rangeOf();
    return BOTTOM - ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (BOTTOM - TOP);
  };
  const pathOf = (values) => values.map((value, i) => `${i ? "L" : "M"}${X(i / (values.length - 1)).toFixed(1)},${Y(value).toFixed(1)}`).join("");
  function lay() {
    const group = groups[g], [low, high] = rangeOf(), points = pointsOf(group);
    back.replaceChildren();
    for (let value = low; value <= high; value++) {
      line(back, value === 1 ? "dl-curve-one" : "dl-grid", LEFT, Y(value), RIGHT, Y(value));
      svg(back, "text", { x: LEFT - 11, y: Y(value) + 4, "text-anchor": "end" }, number(value, 0));
    }
    for (const t of [0, 0.5, 1]) {
      line(back, "dl-grid", X(t), TOP, X(t), BOTTOM);
      svg(back, "text", { x: X(t), y: BOTTOM + 18, "text-anchor": ["start", "middle", "end"][2 * t] }, ["t = 0, noise", "0.5", "1, image"][2 * t]);
    }
    handles.forEach((handle) => handle.remove());
    handles = Array.from({ length: points }, (_, i) => svg(plot, "circle", {
      r: points > POINTS ? 3.5 : 5, cx: X(i / (points - 1)), role: "slider", tabindex: i ? -1 : 0, "aria-orientation": "vertical",
      "aria-label": `${nameOf(group, k)}, at t = ${+(i / (points - 1)).toFixed(2)}`,
    }));
    plot.setAttribute("aria-label", `${nameOf(group, k)}, over t`);
    plot.setAttribute("class", group.looks[k]);
    find('[data-say="help"]').textContent = group.help;
    paint();
  }
  function paint() {
    const group = groups[g], values = valuesOf(group, k), [low, high] = rangeOf();
    drawing.setAttribute("d", pathOf(values));
    others.replaceChildren();
    group.bands.forEach((_, band) => {
      if (band !== k && !isFlat(group, band)) svg(others, "path", { class: `${group.looks[band]} dl-before`, d: pathOf(valuesOf(group, band)) });
    });
    handles.forEach((handle, i) => {
      const said = { cy: Y(values[i]), "aria-valuenow": values[i], "aria-valuetext": number(values[i]).replace(/\.?0+$/, ""),
        "aria-valuemin": Math.min(low, values[i]), "aria-valuemax": Math.max(high, values[i]) };
      for (const key in said) handle.setAttribute(key, said[key]);
    });
    const changed = {};
    groups.forEach((one, i) => one.bands.forEach((band, at) => {
      const flat = isFlat(one, at);
      select.querySelector(`[value="${i}.${at}"]`).textContent = `${flat ? "" : "● "}${nameOf(one, at)}`;
      if (!flat) (changed[one.label] ??= []).push((band || "all bands") + (isOffered(one) ? "" : " (not by this rule)"));
    }));
    const list = Object.entries(changed).map(([label, bands]) => `${label}: ${bands.join(", ")}`);
    const says = list.length ? `● Not flat: ${list.join("; ")}.` : "All curves are flat at 1.";
    if (find('[data-say="changed"]').textContent !== says) find('[data-say="changed"]').textContent = says;
    find('[data-do="one"]').disabled = isFlat(group, k);
    find('[data-do="all"]').disabled = !list.length;
  }
  function choose(next, band) {
    [g, k] = [next, band];
    select.value = `${g}.${k}`;
    lay();
  }
  // Curves that the rule does not look at cannot be chosen.
  function offer() {
    select.querySelectorAll("optgroup").forEach((node, i) => {
      node.disabled = !isOffered(groups[i]);
    });
    if (isOffered(groups[g])) paint();
    else choose(0, 0);
  }

  // ---- keys and pointer ----------------------------------------------------------------------------
  function focus(i) {
    handles.forEach((handle, at) => handle.setAttribute("tabindex", at === i ? 0 : -1));
    handles[i].focus({ preventScroll: true });
  }
  plot.addEventListener("keydown", (event) => {
    const i = handles.indexOf(event.target), [low, high] = rangeOf();
    if (i < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event, by = { ArrowUp: STEP, ArrowDown: -STEP, PageUp: LEAP, PageDown: -LEAP }[key];
    const aside = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const values = valuesOf(groups[g], k);
    if (aside) focus(Math.min(handles.length - 1, Math.max(0, i + aside)));
    else if (by || key === "Home" || key === "End") {
      const wanted = by ? values[i] + by : key === "Home" ? low : high;
      values[i] = +Math.min(high, Math.max(low, wanted)).toFixed(2);
      put(values);
      tellSoon();
    } else return;
    event.preventDefault();
  });
  // What the pointer passes on its way is drawn too.
  let last = null;
  function drawTo(event) {
    const box = plot.getBoundingClientRect(), [low, high] = rangeOf(), values = valuesOf(groups[g], k);
    const t = ((event.clientX - box.left) * (W / box.width) - LEFT) / (RIGHT - LEFT);
    const up = (BOTTOM - (event.clientY - box.top) * (H / box.height)) / (BOTTOM - TOP);
    const i = Math.min(values.length - 1, Math.max(0, Math.round(t * (values.length - 1))));
    const value = Math.min(high, Math.max(low, Math.round((low + up * (high - low)) / FINE) * FINE));
    const from = last ?? { i, value }, count = Math.abs(i - from.i);
    for (let step = 0; step <= count; step++) {
      const share = count ? step / count : 1;
      if (step || !last || !count) values[from.i + Math.sign(i - from.i) * step] = +(from.value + share * (value - from.value)).toFixed(2);
    }
    last = { i, value };
    put(values);
    return i;
  }
  plot.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    plot.setPointerCapture(event.pointerId);
    last = null;
    focus(drawTo(event));
  });
  plot.addEventListener("pointermove", (event) => last && drawTo(event));
  for (const kind of ["pointerup", "pointercancel"])
    plot.addEventListener(kind, () => {
      if (!last) return;
      last = null;
      tell();
    });

  select.addEventListener("change", () => choose(...select.value.split(".").map(Number)));
  find('[data-do="one"]').addEventListener("click", () => {
    put(Array(pointsOf(groups[g])).fill(1));
    tell();
  });
  find('[data-do="all"]').addEventListener("click", () => {
    curves = {};
    lay();
    tell();
  });
  document.addEventListener("dl-rule", offer);

  const show = () => {
    if (props.value === told) return;
    told = props.value;
    try {
      curves = JSON.parse(props.value || "{}");
    } catch {
      curves = {};
    }
    lay();
  };
  watch("value", show);
  show();
  lay();
  offer();
}
DecoLab.tellRule = (rule) => {
  DecoLab.rule = rule;
  document.dispatchEvent(new Event("dl-rule"));
  return [];
};
