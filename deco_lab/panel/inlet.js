// A file that a person chooses, or drops anywhere on the page while the inlet's tab is shown.
//
//   mountInlet(element, props, trigger, watch);     // Gradio's: props.value becomes a data URI
//
// What the page then gives it as value, in words, is shown.
function mountInlet(root, props, trigger, watch) {
  "use strict";
  const MAX_BYTES = 16 * 2 ** 20; // the server's own limit: spares the way there
  root.classList.add("dl");
  root.innerHTML = `<label class="dl-inlet"><span></span><input type="file" accept="image/*"></label>
    <p class="dl-note" role="status"></p>`;
  const input = root.querySelector("input"), note = root.querySelector("p");
  root.querySelector("span").textContent = props.setup.label;

  function take(file) {
    note.textContent = "";
    if (!file) return;
    if (file.size > MAX_BYTES) {
      note.textContent = `The file has ${(file.size / 2 ** 20).toFixed(1)} MiB; at most 16 can be read.`;
      return;
    }
    const reader = new FileReader();
    reader.onload = () => {
      props.value = reader.result;
      trigger("input");
    };
    reader.readAsDataURL(file);
  }
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  const say = () => {
    if (props.value && !props.value.startsWith("data:")) note.textContent = props.value;
  };
  watch("value", say);
  say();
  const isFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const isShown = () => props.setup.drops && root.isConnected && root.offsetParent !== null;
  document.addEventListener("dragover", (event) => isFile(event) && isShown() && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isFile(event) || !isShown()) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

// What a panel sends to the page: DecoLab.send(name, text) makes the text the value of the sender of
// that name, and its input.
function mountSender(root, props, trigger) {
  "use strict";
  DecoLab.senders[props.setup.name] = (text) => {
    props.value = text;
    trigger("input");
  };
}

// What the server hands over to be kept: {name, type, data} is saved as a file, {title, text} is shown
// with a button that copies it.
function mountKeeper(root) {
  "use strict";
  root.classList.add("dl");
  root.innerHTML = `<p class="dl-note" role="status"></p>
    <dialog class="dl-dialog" aria-labelledby="dl-keeper-title"><h2 id="dl-keeper-title"></h2><pre tabindex="0"></pre>
      <form method="dialog"><button type="button" class="dl-button" data-do="copy">Copy</button>
        <button class="dl-button">Close</button></form></dialog>`;
  const note = root.querySelector("p"), dialog = root.querySelector("dialog"), text = root.querySelector("pre");
  root.querySelector('[data-do="copy"]').addEventListener("click", async (event) => {
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range); // also where the clipboard is out of reach
    try {
      await navigator.clipboard.writeText(text.textContent);
      event.target.textContent = "Copied";
    } catch {
      event.target.textContent = "Selected: press Ctrl C";
    }
  });
  return {
    show(kept) {
      note.textContent = kept.says || "";
      if (kept.text) {
        root.querySelector("h2").textContent = kept.title;
        text.textContent = kept.link ? location.origin + location.pathname + kept.text : kept.text;
        root.querySelector('[data-do="copy"]').textContent = "Copy";
        dialog.showModal();
      } else if (kept.data) DecoLab.save(kept.name, kept.type, DecoLab.bytesOf(kept.data));
    },
  };
}
