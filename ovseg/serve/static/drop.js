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

input.addEventListener("change", () => input.files.length && send(input.files[0]));
for (const kind of ["dragenter", "dragover"]) {
  target.addEventListener(kind, (event) => {
    event.preventDefault();
    target.classList.add("ov-over");
  });
}
for (const kind of ["dragleave", "drop"]) target.addEventListener(kind, () => target.classList.remove("ov-over"));
target.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (file) send(file);
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
