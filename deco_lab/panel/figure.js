// The button "SVG" of a plot's heading saves the plot as it stands on the screen: its lines, legend and
// numbers, with canvases as pictures, in the colours of the light theme on white, and nothing else needed.
//
//   heading.innerHTML = `... ${DecoLab.svgButton(name)}`;     // within an element that has data-figure
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg", MARGIN = 8;
  const LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-opacity", "opacity",
    "font-size", "font-weight", "vector-effect", "visibility"];
  const svgButton = (name) =>
    `<button type="button" class="dl-svg" data-svg="${name}" title="Save this plot as SVG" aria-label="Save this plot as SVG">SVG</button>`;

  function node(parent, name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    parent.append(made);
    return made;
  }
  // A copy of an SVG that keeps its looks without the page's styles.
  function dressed(plot, box) {
    const copy = plot.cloneNode(true), from = [plot, ...plot.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((to, i) => {
      const style = getComputedStyle(from[i]);
      if (style.display === "none") to.setAttribute("display", "none");
      else if (to !== copy)
        for (const name of LOOK) {
          const value = style.getPropertyValue(name);
          if (value && value !== "normal") to.setAttribute(name, value);
        }
      for (const name of ["class", "style", "tabindex", "role", "aria-label"]) to.removeAttribute(name);
    });
    copy.setAttribute("overflow", getComputedStyle(plot).overflow);
    for (const name in box) copy.setAttribute(name, box[name]);
    return copy;
  }
  // The lines of a text as they break on the screen: {text, x, y, height}.
  function linesOf(text) {
    const lines = [], range = document.createRange();
    for (const word of text.data.matchAll(/\S+/g)) {
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const box = range.getClientRects()[0], last = lines.at(-1);
      if (!box || !box.width) continue;
      if (last && Math.abs(last.y - box.y) < 2) last.text += ` ${word[0]}`;
      else lines.push({ text: word[0], x: box.x, y: box.y, height: box.height });
    }
    return lines;
  }
  function svgOf(figure, title, about) {
    const area = figure.getBoundingClientRect(), left = area.x - MARGIN, top = area.y - MARGIN;
    const width = area.width + 2 * MARGIN, height = area.height + 2 * MARGIN;
    const whole = document.createElementNS(SVG, "svg");
    const size = { width, height, viewBox: `0 0 ${width} ${height}` };
    for (const key in size) whole.setAttribute(key, size[key]);
    whole.setAttribute("font-family", "system-ui, -apple-system, Segoe UI, Roboto, sans-serif");
    node(whole, "title").textContent = title;
    node(whole, "desc").textContent = about;
    node(whole, "rect", { width, height, fill: "#fff" });
    const walk = (element) => {
      for (const child of element.childNodes) {
        if (child.nodeType === Node.TEXT_NODE) {
          const style = getComputedStyle(element), size = parseFloat(style.fontSize);
          for (const { text, x, y, height: of } of linesOf(child))
            node(whole, "text", { x: x - left, y: y - top + of / 2 + 0.35 * size, fill: style.color, "font-size": style.fontSize,
              "font-weight": style.fontWeight }).textContent = text;
          continue;
        }
        if (child.nodeType !== Node.ELEMENT_NODE || child.matches("button, .dl-modes, .dl-unseen")) continue;
        const style = getComputedStyle(child), box = child.getBoundingClientRect();
        if (style.display === "none" || style.visibility === "hidden") continue;
        const place = { x: box.x - left, y: box.y - top, width: box.width, height: box.height };
        if (child.matches("svg")) whole.append(dressed(child, place));
        else if (child.matches("canvas"))
          node(whole, "image", { ...place, href: child.toDataURL(), preserveAspectRatio: "none", style: "image-rendering: pixelated" });
        else {
          if (box.width && !/^rgba\(.*, 0\)$/.test(style.backgroundColor)) node(whole, "rect", { ...place, fill: style.backgroundColor });
          const { borderTopWidth, borderTopStyle, borderTopColor } = style, thick = parseFloat(borderTopWidth);
          const side = parseFloat(style.borderLeftWidth);
          if (box.width && side) node(whole, "rect", { ...place, width: side, fill: style.borderLeftColor });
          if (child.matches("i") && thick) // of a legend
            node(whole, "line", { x1: place.x, x2: place.x + place.width, y1: place.y + thick / 2, y2: place.y + thick / 2, stroke: borderTopColor,
              "stroke-width": thick, "stroke-dasharray": { dashed: "4 3", dotted: "1.5 2" }[borderTopStyle] || "none" });
          walk(child);
        }
      }
    };
    walk(figure);
    return new XMLSerializer().serializeToString(whole);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-svg]");
    if (!button) return;
    const figure = button.closest("[data-figure]"), panel = button.closest(".dl[data-status]");
    const title = button.parentElement.querySelector("h2").textContent.replace(/\s+/g, " ");
    const about = panel.dataset.title || "", step = panel.dataset.step;
    const name = ["deco-lab", button.dataset.svg, about, step && `step ${step}`].filter(Boolean).join("-");
    const dark = document.querySelectorAll(".dark");
    dark.forEach((one) => one.classList.remove("dark")); // nothing is painted meanwhile
    const content = svgOf(figure, title, about + (step ? `, step ${step}` : ""));
    dark.forEach((one) => one.classList.add("dark"));
    DecoLab.save(`${name.replace(/[^\w.-]+/g, "-").slice(0, 120)}.svg`, "image/svg+xml", content);
  });
  Object.assign(DecoLab, { svgButton });
})();
