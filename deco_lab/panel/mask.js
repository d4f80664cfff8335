// What of a person's own picture is drawn anew, painted on it: the value of
// deco_lab.workbench.settings.Settings.mask, text as deco_lab/workbench/mask.py says.
//
//   mountMask(element, props, trigger, watch);      // props.setup.label: what a form calls it
//   mountMaskGround().show({wanted, side, picture});    // whether it shows, the model's size, its ground
//
// It is painted in the model's own pixels, whatever the screen's; a mask of another size is brought to
// it. Each stroke, and each button, is one value, and starts a run. Shown only where it is wanted.
const MaskText = (() => {
  "use strict";
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", MORE = 32, MAX_PIXELS = 2 ** 22;
  const written = (number) =>
    number < MORE ? LETTERS[number] : LETTERS[(number % MORE) + MORE] + written(Math.floor(number / MORE));

  // {side, painted}: a byte for each pixel, 1 where it is painted; null of a text that is no mask.
  function read(text) {
    const [, side, letters] = /^(\d{1,4})\.([\w-]+)$/.exec(text) || [];
    if (!side || side * side > MAX_PIXELS) return null;
    const painted = new Uint8Array(side * side);
    let at = 0, number = 0, place = 1, value = 0;
    for (const letter of letters) {
      const digit = LETTERS.indexOf(letter);
      number += (digit % MORE) * place;
      place *= MORE;
      if (digit >= MORE) continue;
      painted.fill(value, at, at + number);
      [at, number, place, value] = [at + number, 0, 1, 1 - value];
    }
    return at === painted.length ? { side: +side, painted } : null;
  }
  function write({ side, painted }) {
    if (!painted.includes(1)) return "";
    let text = `${side}.`, from = 0, value = 0;
    for (let i = 0; i <= painted.length; i++)
      if (painted[i] !== value) { // past the end, too
        text += written(i - from);
        [from, value] = [i, 1 - value];
      }
    return text;
  }
  // The nearest pixels of a mask, at another size.
  function resized({ side, painted }, other) {
    const at = (i) => Math.floor(((i + 0.5) * side) / other);
    return { side: other, painted: Uint8Array.from({ length: other * other }, (_, i) => painted[at(Math.floor(i / other)) * side + at(i % other)]) };
  }
  return { read, write, resized };
})();

const MaskGround = { said: { wanted: false, side: 0, picture: null }, show: () => {} };
function mountMaskGround() {
  "use strict";
  return {
    show(said) {
      MaskGround.said = said;
      MaskGround.show();
    },
  };
}

function mountMask(root, props, trigger, watch) {
  "use strict";
  const MOST_UNDONE = 50, SIDES = ["left", "top", "width", "height"];
  root.classList.add("dl", "dl-mask");
  root.innerHTML = `
    <p class="dl-mask-head"><span class="dl-mask-name">${DecoLab.escape(props.setup.label)}</span><output></output></p>
    <p class="dl-note">What you paint is drawn anew. The rest stays: each step sets it back to the picture with the noise of its time (RePaint without resampling).</p>
    <div class="dl-mask-sheet"><canvas data-of="picture" width="64" height="64"></canvas>
      <canvas data-of="mask" role="img" aria-label="Your picture, and what is painted on it"></canvas><i hidden></i></div>
    <div class="dl-mask-row"><div class="dl-modes" role="group" aria-label="What the brush does">
        <button type="button" data-tool="1" aria-pressed="true">Paint</button><button type="button" data-tool="0" aria-pressed="false">Erase</button></div>
      <label>Brush <input type="range" min="1" aria-label="Brush, in pixels"> <b></b></label></div>
    <div class="dl-mask-row">${["Undo", "Invert", "Clear"].map((name) => `<button type="button" class="dl-button" data-do="${name.toLowerCase()}">${name}</button>`).join("")}</div>
    <details><summary>A rectangle, by numbers</summary>
      <div class="dl-mask-row dl-mask-four">${SIDES.map((name) => `<label>${name[0].toUpperCase() + name.slice(1)}<input type="number" min="0" step="1" data-side="${name}"></label>`).join("")}</div>
      <div class="dl-mask-row"><button type="button" class="dl-button" data-do="add">Paint it</button><button type="button" class="dl-button" data-do="take">Erase it</button></div></details>`;
  const find = (selector) => root.querySelector(selector);
  const ground = find('[data-of="picture"]'), sheet = find('[data-of="mask"]'), ring = find("i");
  const brush = find('[type="range"]'), sides = Object.fromEntries(SIDES.map((name) => [name, find(`[data-side="${name}"]`)]));
  const tools = [...root.querySelectorAll("[data-tool]")];
  let mask = { side: 0, painted: new Uint8Array(0) }, tool = 1, last = null, undone = [];

  // ---- what is shown -------------------------------------------------------------------------------
  const size = () => +brush.value;
  const schedule = DecoLab.onceAFrame(() => paint());
  // Half covered, with an edge of full colour within and of dark without, so that it shows on any ground.
  function paint() {
    const { side, painted } = mask;
    if (sheet.width !== side || sheet.height !== side) Object.assign(sheet, { width: side, height: side });
    const context = sheet.getContext("2d"), image = context.createImageData(side, side), { data } = image;
    const colour = parseInt(getComputedStyle(root).getPropertyValue("--dl-painted").trim().slice(1), 16);
    let count = 0;
    for (let y = 0, i = 0; y < side; y++)
      for (let x = 0; x < side; x++, i++) {
        const own = painted[i];
        const isEdge = (x > 0 && painted[i - 1] !== own) || (x < side - 1 && painted[i + 1] !== own)
          || (y > 0 && painted[i - side] !== own) || (y < side - 1 && painted[i + side] !== own);
        count += own;
        if (!own && !isEdge) continue;
        data[4 * i] = own && colour >> 16;
        data[4 * i + 1] = own && (colour >> 8) & 255;
        data[4 * i + 2] = own && colour & 255;
        data[4 * i + 3] = own ? (isEdge ? 235 : 130) : 120;
      }
    context.putImageData(image, 0, 0);
    const percent = (100 * count) / painted.length;
    const share = percent < 0.5 ? "under 1%" : percent > 99.5 && percent < 100 ? "over 99%" : `${Math.round(percent)}%`;
    find("output").textContent = count ? `${share} is drawn anew` : "nothing painted: all is drawn";
    find("label b").textContent = `${size()} px`;
    find('[data-do="undo"]').disabled = !undone.length;
    find('[data-do="clear"]').disabled = !count;
  }
  // At the model's size, if that is known.
  function take(text) {
    const found = MaskText.read(text || "");
    const side = MaskGround.said.side || found?.side || 64;
    if (side !== mask.side) {
      brush.max = Math.max(1, side / 2);
      brush.value = Math.max(1, Math.round(side / 8));
      for (const name of SIDES) {
        sides[name].max = side;
        sides[name].value = Math.round(side / (name === "left" || name === "top" ? 4 : 2));
      }
    }
    mask = !found ? { side, painted: new Uint8Array(side * side) } : found.side === side ? found : MaskText.resized(found, side);
    schedule();
  }
  function show() {
    const { wanted, picture } = MaskGround.said;
    root.hidden = !wanted;
    if (picture) DecoLab.drawPictures(ground, DecoLab.unpackPictures(picture));
    else ground.getContext("2d").clearRect(0, 0, ground.width, ground.height);
    take(props.value);
  }

  // ---- what is done --------------------------------------------------------------------------------
  function give() {
    const text = MaskText.write(mask);
    schedule();
    if (text === (props.value || "")) return;
    undone = [...undone, props.value || ""].slice(-MOST_UNDONE);
    props.value = text;
    trigger("input");
  }
  const actions = {
    undo() {
      props.value = undone.pop();
      take(props.value);
      trigger("input");
    },
    invert() {
      mask.painted = mask.painted.map((one) => 1 - one);
      give();
    },
    clear() {
      mask.painted.fill(0);
      give();
    },
    add: () => fill(1),
    take: () => fill(0),
  };
  function fill(value) {
    const [left, top, width, height] = SIDES.map((name) => Math.max(0, Math.round(+sides[name].value || 0)));
    const right = Math.min(mask.side, left + width);
    for (let y = top; y < Math.min(mask.side, top + height); y++)
      if (right > left) mask.painted.fill(value, y * mask.side + left, y * mask.side + right);
    give();
  }
  root.addEventListener("click", ({ target }) => {
    if (target.dataset.do) actions[target.dataset.do]();
    if (!target.dataset.tool) return;
    tool = +target.dataset.tool;
    for (const button of tools) button.setAttribute("aria-pressed", button === target);
  });
  brush.addEventListener("input", schedule);
  // What shapes the brush starts no run: page.js hears changes of the form.
  root.addEventListener("change", (event) => event.stopPropagation());

  // ---- the brush -----------------------------------------------------------------------------------
  // In pixels of the mask.
  function at({ clientX, clientY }) {
    const box = sheet.getBoundingClientRect();
    return { x: ((clientX - box.left) / box.width) * mask.side, y: ((clientY - box.top) / box.height) * mask.side };
  }
  // All pixels whose middle is as near to the way from a to b as the brush is wide, and those under it.
  function stroke(a, b) {
    const { side, painted } = mask, radius = size() / 2, dx = b.x - a.x, dy = b.y - a.y, long = dx * dx + dy * dy;
    const range = (p, q) => [Math.max(0, Math.floor(Math.min(p, q) - radius)), Math.min(side - 1, Math.floor(Math.max(p, q) + radius))];
    const [x0, x1] = range(a.x, b.x), [y0, y1] = range(a.y, b.y);
    for (let y = y0; y <= y1; y++)
      for (let x = x0; x <= x1; x++) {
        const px = x + 0.5 - a.x, py = y + 0.5 - a.y, along = long ? Math.min(1, Math.max(0, (px * dx + py * dy) / long)) : 0;
        if ((px - along * dx) ** 2 + (py - along * dy) ** 2 <= radius * radius) painted[y * side + x] = tool;
      }
    const x = Math.floor(b.x), y = Math.floor(b.y);
    if (x >= 0 && y >= 0 && x < side && y < side) painted[y * side + x] = tool;
  }
  function showRing(event) {
    const { x, y } = at(event), part = (value) => `${(100 * value) / mask.side}%`;
    ring.hidden = event.pointerType === "touch";
    ring.style.cssText = `left: ${part(x)}; top: ${part(y)}; width: ${part(size())}; height: ${part(size())}`;
  }
  sheet.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    sheet.setPointerCapture(event.pointerId);
    last = at(event);
    stroke(last, last);
    schedule();
  });
  sheet.addEventListener("pointermove", (event) => {
    showRing(event);
    if (!last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const next = at(one);
      stroke(last, next);
      last = next;
    }
    schedule();
  });
  for (const kind of ["pointerup", "pointercancel"])
    sheet.addEventListener(kind, () => {
      if (!last) return;
      last = null;
      give();
    });
  sheet.addEventListener("pointerleave", () => (ring.hidden = true));

  MaskGround.show = show;
  watch("value", () => last || props.value === MaskText.write(mask) || take(props.value));
  show();
  DecoLab.send("mask-asks", "");
}
