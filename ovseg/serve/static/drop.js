// The place where photographs come in. They go to the server as they are, and stay in its memory alone.
const settings = JSON.parse(props.value);
const target = element.querySelector(".ov-target");
const input = element.querySelector("input");
const gallery = element.querySelector(".ov-examples");

async function opened(request) {
  target.classList.add("ov-busy");
  try {
    const answer = await request;
    if (!answer.ok) {
      trigger("failed", { line: (await answer.text()).trim() });
      return;
    }
    const found = await answer.json();
    trigger("opened", { session: found.session, ask: found.ask ?? null });
  } catch (error) {
    trigger("failed", { line: "the server does not answer; is it still running?" });
  } finally {
    target.classList.remove("ov-busy");
    input.value = "";
  }
}

function send(file) {
  if (file.size > settings.bytes) {
    const most = settings.bytes / 1e6;
    trigger("failed", { line: `the file has ${(file.size / 1e6).toFixed(1)} MB; this page takes ${most} MB: shrink it` });
    return;
  }
  opened(fetch(`photo?name=${encodeURIComponent(file.name || "photo")}`, { method: "POST", body: file }));
}

function take(files) {
  if (files.length > 1) trigger("failed", { line: `these are ${files.length} files; this page takes one photograph at a time` });
  else if (files.length) send(files[0]);
}

input.addEventListener("change", () => take(input.files));

// Files may be let fall anywhere: a browser would leave the page for one that falls beside the target.
const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    target.classList.add("ov-over");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget || target.classList.remove("ov-over"));
document.addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  target.classList.remove("ov-over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData;
  // Office programs put a picture beside the text that is pasted into a field.
  if (types.includes("text/plain") && event.target.closest("input, textarea")) return;
  const pictures = [...files].filter((one) => one.type.startsWith("image/"));
  if (pictures.length) take(pictures);
});

element.querySelector(".ov-examples-title").hidden = !settings.examples.length;
for (const name of settings.examples) {
  const button = document.createElement("button");
  const picture = document.createElement("img");
  button.type = "button";
  button.title = `Example: ${name.replace(/\.\w+$/, "")}`;
  picture.src = `example/${encodeURIComponent(name)}`;
  picture.alt = button.title;
  picture.loading = "lazy";
  button.append(picture);
  button.addEventListener("click", () => opened(fetch(`example/${encodeURIComponent(name)}`, { method: "POST" })));
  gallery.append(button);
}
