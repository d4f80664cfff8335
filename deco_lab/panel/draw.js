// What all panels draw with: SVG nodes, axes, pictures from bytes, heatmaps, numbers in words; and how
// the browser saves a file.
//
//   const {svg, line, number, drawPictures, heatmap, ...} = DecoLab;
//
// Sizes in SVG are those of its viewBox; colours come from classes of panel.css.
window.DecoLab = (() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";

  function svg(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }
  const line = (parent, look, x1, y1, x2, y2) => svg(parent, "line", { class: look, x1, y1, x2, y2 });

  // A number with a true minus sign; a dash for null.
  function number(value, digits = 2) {
    if (value === null || value === undefined) return "–";
    const text = Math.abs(value).toFixed(digits);
    return value < 0 && +text ? "\u2212" + text : text;
  }
  const percent = (share, digits = 0) => (share === null ? "–" : `${number(100 * share, digits)}%`);
  // Say in a panel where its answer stands.
  function announce(root, data) {
    const { status, text } = data;
    root.dataset.status = status;
    root.querySelector(".dl-says").textContent = DecoLab.worded(root, data) || text || (status === "done" ? "Done." : "");
  }
  // A fraction of small numbers, such as 3/64 for numerator 3 and denominator 64.
  function fraction(numerator, denominator) {
    while (numerator && numerator % 2 === 0 && denominator % 2 === 0) {
      numerator /= 2;
      denominator /= 2;
    }
    return numerator ? `${numerator}/${denominator}` : "0";
  }
  // For text that comes from outside and goes into innerHTML.
  const escape = (text) =>
    String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

  const legend = (items) =>
    items.map((item) => `<span class="${item.look}"><i></i>${item.name}</span>`).join("");

  // The 64 [vertical, horizontal] indices of a block in zigzag order.
  const zigzag = [];
  for (let d = 0; d < 15; d++)
    for (let i = 0; i <= d; i++) {
      const [u, v] = d % 2 ? [i, d - i] : [d - i, i];
      if (u < 8 && v < 8) zigzag.push([u, v]);
    }

  // ---- pictures ----------------------------------------------------------------------------------
  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }
  // {count, height, width, bytes} of deco_lab.workbench.pictures.PackedImages, as kept in memory.
  const unpackPictures = (pictures) =>
    pictures && { ...pictures, pixels: undefined, bytes: bytesOf(pictures.pixels) };

  // Give a canvas the size of pictures in rows of equal length with thin gaps; return how they lie.
  // Assigning a canvas's size clears it, so that happens only when it changes.
  function layOut(canvas, { count, height: h, width: w }) {
    const columns = Math.ceil(Math.sqrt(count)), rows = Math.ceil(count / columns);
    const gap = count > 1 ? Math.max(2, Math.round(w / 32)) : 0;
    const width = columns * (w + gap) - gap, height = rows * (h + gap) - gap;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    return { columns, gap };
  }
  // Draw pictures on a canvas at their own size: CSS scales it. Where there are none it is cleared, and
  // takes the size of those that are to come, if that is known.
  function drawPictures(canvas, pictures, like) {
    const context = canvas.getContext("2d");
    if (!pictures && like) layOut(canvas, like);
    canvas.classList.toggle("dl-drawn", Boolean(pictures));
    if (!pictures) return context.clearRect(0, 0, canvas.width, canvas.height);
    const { count, height: h, width: w, bytes } = pictures, { columns, gap } = layOut(canvas, pictures);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const image = context.createImageData(w, h);
    const target = image.data;
    for (let n = 0; n < count; n++) {
      for (let i = 0, from = n * h * w * 3; i < h * w; i++, from += 3) {
        target[4 * i] = bytes[from];
        target[4 * i + 1] = bytes[from + 1];
        target[4 * i + 2] = bytes[from + 2];
        target[4 * i + 3] = 255;
      }
      context.putImageData(image, (n % columns) * (w + gap), Math.floor(n / columns) * (h + gap));
    }
    DecoLab.drawn(canvas);
  }

  // ---- heatmaps ----------------------------------------------------------------------------------
  // Anchors of magma (matplotlib, CC0), joined by straight lines: from black to nearly white, so that
  // equal steps look equal and there are many of them.
  const MAGMA = [
    [0, 0, 4], [20, 14, 54], [59, 15, 112], [100, 26, 128], [140, 41, 129], [183, 55, 121],
    [222, 73, 104], [247, 112, 92], [254, 159, 109], [254, 207, 146], [252, 253, 191],
  ];
  function colour(share) {
    const at = Math.min(1, Math.max(0, share)) * (MAGMA.length - 1);
    const i = Math.min(MAGMA.length - 2, Math.floor(at)), rest = at - i;
    return MAGMA[i].map((low, c) => Math.round(low + rest * (MAGMA[i + 1][c] - low)));
  }

  // ---- files -------------------------------------------------------------------------------------
  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
  // Every number and word of a view, a row each, under where it stands in it; pictures are left out.
  function rowsOf(value, name) {
    if (value === null || typeof value !== "object") return [[name, value ?? ""]];
    if ("pixels" in value) return [];
    return Object.entries(value).flatMap(([key, inner]) => rowsOf(inner, name ? `${name}.${key}` : key));
  }
  const csvOf = (view) => [["name", "value"], ...rowsOf(view, "")]
    .map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(",") + "\n").join("");

  const senders = {}; // by name, mountSender of inlet.js
  const send = (name, text) => senders[name]?.(text);

  // Returns what asks for `paint` at the next refresh of the screen, once however often it is called.
  function onceAFrame(paint) {
    let scheduled = false;
    return () => {
      if (scheduled) return;
      scheduled = true;
      requestAnimationFrame(() => {
        scheduled = false;
        paint();
      });
    };
  }
  return { onceAFrame, senders, send, svg, line, number, percent, announce, fraction, escape, legend, zigzag, bytesOf, unpackPictures, drawPictures, colour, save, csvOf };
})();
