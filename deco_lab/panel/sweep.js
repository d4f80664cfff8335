// The Sweep tab's panel: a grid of cells, each with its pictures and the energy of its bands over that of
// the first cell.
//
//   setup: {bands}
//   show({run, status, text, grid: {x: {label, values}, y}, cells: [{row, column, pictures, bands, nfe}]})
//
// The cells of a message join those before it; the grid of another run takes their place.
function mountSweep(root, setup) {
  "use strict";
  const { announce, drawPictures, unpackPictures, number, escape, legend, showRunning } = DecoLab;
  const LIMIT = 6, HALF = 13; // decibels at the end of a bar, and its pixels
  root.classList.add("dl", "dl-sweep");
  root.dataset.status = "idle";
  root.innerHTML = `
    <div class="dl-status"><p class="dl-says" role="status">Choose what varies along columns and rows, then “Draw the grid”.</p></div>
    <p class="dl-sentence"></p>
    <div class="dl-grid-of" tabindex="0" role="group" aria-label="Grid of runs" hidden><table></table></div>
    <div class="dl-legend" hidden>${legend(setup.bands.map((name, k) => ({ name, look: `dl-area dl-band-${k}` })))}<span>cycles/pixel</span></div>
    <p class="dl-note" hidden>Bars and numbers: energy of each band, coarse to fine, over that of the first cell, in dB, 3 of which are twice as much;
      bars end at ±${LIMIT}. A click on a picture enlarges it.</p>`;
  const find = (selector) => root.querySelector(selector), table = find("table");
  let run = 0, grid = null, cells = new Map();

  const at = (row, column) => `${row} ${column}`;
  const decibels = ({ bands }, k) => {
    const first = cells.get(at(0, 0));
    return first && bands[k] > 0 && first.bands[k] > 0 ? 10 * Math.log10(bands[k] / first.bands[k]) : null;
  };
  const signed = (value) => (value === null ? "–" : (value >= 0.05 ? "+" : "") + number(value, 1));
  const lower = (label) => (/^[A-Z][a-z]+( |$)/.test(label) ? label[0].toLowerCase() + label.slice(1) : label);
  const named = (row, column) =>
    [[grid.x, column], [grid.y, row]].filter(([{ label }]) => label).map(([{ label, values }, i]) => `${lower(label)} ${values[i]}`).join(", ");

  function lay() {
    const { x, y } = grid, columns = x.values.length;
    table.innerHTML = `<thead>
        <tr><td></td><th class="dl-axis-name" scope="colgroup" colspan="${columns}">${escape(x.label)}</th></tr>
        <tr><th class="dl-axis-name" scope="col">${escape(y.label) || '<span class="dl-unseen">Row</span>'}</th>${x.values.map((value) => `<th scope="col">${escape(value)}</th>`).join("")}</tr></thead>
      <tbody>${y.values.map((value, row) => `<tr><th scope="row">${escape(value) || '<span class="dl-unseen">All</span>'}</th>${
        x.values.map((_, column) => `<td data-cell="${at(row, column)}">
          <canvas class="dl-picture" width="64" height="64" role="img" aria-label="${escape(named(row, column))}"></canvas>
          <ul aria-label="dB over the first cell">${setup.bands.map((name, k) => `<li class="dl-band-${k}"><i></i><b title="${name}">–</b></li>`).join("")}</ul></td>`).join("")}</tr>`).join("")}</tbody>`;
    table.style.setProperty("--columns", columns);
    for (const part of [".dl-grid-of", ".dl-legend", ".dl-note"]) find(part).hidden = false;
  }
  function put(cell) {
    const node = table.querySelector(`[data-cell="${at(cell.row, cell.column)}"]`);
    if (cells.has(at(cell.row, cell.column))) return;
    cells.set(at(cell.row, cell.column), cell);
    drawPictures(node.querySelector("canvas"), unpackPictures(cell.pictures));
    node.title = `${named(cell.row, cell.column)}: ${cell.nfe} network passes per image`;
    node.querySelectorAll("li").forEach((item, k) => {
      const value = decibels(cell, k), height = Math.min(1, Math.abs(value ?? 0) / LIMIT) * HALF;
      item.querySelector("b").textContent = signed(value);
      item.querySelector("i").style.cssText = `height: ${height}px; margin-top: ${value > 0 ? HALF - height : HALF}px; margin-bottom: ${value > 0 ? HALF : HALF - height}px`;
    });
  }
  // Where the finest band has most and least.
  function says() {
    const k = setup.bands.length - 1, all = [...cells.values()].map((cell) => ({ ...cell, value: decibels(cell, k) })).filter(({ value }) => value !== null);
    if (all.length < 2) return "";
    const [least, most] = [(a, b) => (b.value < a.value ? b : a), (a, b) => (b.value > a.value ? b : a)].map((pick) => all.reduce(pick));
    return `Energy ${setup.bands[k]} cycles a pixel is least with ${named(least.row, least.column)} (${signed(least.value)} dB over the first cell) and most with ${named(most.row, most.column)} (${signed(most.value)} dB).`;
  }
  return {
    show(data) {
      if (data.run < run) return; // of a sweep that another has ended
      announce(root, data);
      const isRunning = ["waiting", "running"].includes(data.status);
      showRunning(isRunning, ["sweep-start", "sweep-stop"], "dl-sweeping");
      if (data.grid && data.run !== run) {
        run = data.run;
        grid = data.grid;
        cells = new Map();
        lay();
      }
      data.cells?.forEach(put);
      find(".dl-sentence").textContent = cells.size ? says() : "";
      root.dataset.cells = cells.size;
      root.dataset.run = data.run ?? run;
      for (const kind of ["png", "npz", "csv"]) {
        const button = document.getElementById(`sweep-${kind}`);
        if (button) button.disabled = isRunning;
      }
    },
  };
}
