// Space and arrows wherever the focus is, and Start and Stop as one button.
//
//   DecoLab.isFree(event)          whether the control that has the focus leaves a key to the page
//   DecoLab.showRunning(isRunning) of #start and #stop, the one that does something shows; also of others:
//   DecoLab.showRunning(isRunning, [start, stop], look), by ids, where the look is a class of the page
(() => {
  "use strict";
  const TYPED = "input:is(:not([type]), [type=text], [type=search], [type=url], [type=email], [type=password], [type=number]), textarea, select, [contenteditable=true]";
  const CHOSEN = "[type=radio], [role=tab], [role=menuitem], [role=option]"; // by arrows, and by Space
  const PRESSED = "button, summary, [type=checkbox], [type=file], [role=button]"; // by Space

  function isFree(event) {
    const { target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (document.querySelector("dialog[open]:not(.dl-enlarged)")) return false;
    // A list that is closed has nothing to type into.
    if (target.matches('[role="combobox"]') ? target.getAttribute("aria-expanded") === "true" : target.matches(TYPED)) return false;
    if (target.matches(CHOSEN)) return false;
    if (event.key === " ") return !target.matches(PRESSED);
    return !(event.key.startsWith("Arrow") && target.matches("[type=range]"));
  }

  // The focus goes from the one that goes to the one that comes.
  function showRunning(isRunning, ids = ["start", "stop"], look = "dl-running") {
    const [start, stop] = ids.map((id) => document.getElementById(id));
    const [gone, shown] = isRunning ? [start, stop] : [stop, start];
    const hasFocus = document.activeElement === gone;
    document.documentElement.classList.toggle(look, isRunning);
    if (hasFocus) shown?.focus({ preventScroll: true });
  }
  // The second click of a double one does not stop what the first has started.
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest("#start, #stop, #sweep-start, #sweep-stop")) event.stopImmediatePropagation();
  }, true);

  Object.assign(DecoLab, { isFree, showRunning });
})();
