// Things that are picked by clicks: their outline on the photograph, and their names beside it.
const picked = { past: [], side: "", found: null, how: "new" };
const HOW = [["new", "picks a new thing"], ["more", "adds to it (Shift)"], ["away", "takes away from it (Alt)"]];

function forgetPicked() {
  Object.assign(picked, { past: [], side: "", found: null });
  tellPicked();
}

// Every click is one step that can be taken back; a step is the list of all clicks on the thing.
function pick(event) {
  const { side, row, column } = state.point;
  const how = event?.altKey ? "away" : event?.shiftKey ? "more" : picked.how;
  const before = picked.side === side && how !== "new" ? (picked.past.at(-1) ?? []) : [];
  if (how === "away" && !before.some(([, , inside]) => inside)) return tellPicked("click the thing itself first");
  if (picked.side !== side) picked.past = [];
  picked.side = side;
  picked.past.push([...before, [row, column, how !== "away"]]);
  askPicked();
}

function undoPicked() {
  if (!picked.past.length) return;
  picked.past.pop();
  askPicked();
}

async function askPicked() {
  const clicks = picked.past.at(-1);
  if (!clicks) {
    picked.found = null;
    tellPicked();
    return state.panes.forEach(draw);
  }
  const data = state.data;
  const found = await ask("point", { side: picked.side, clicks });
  const mask = found.error ? null : await numbersOf(found.mask);
  if (state.data !== data || picked.past.at(-1) !== clicks) return; // another click has come meanwhile
  picked.found = found.error ? null : { ...found, mask };
  tellPicked(found.error);
  state.panes.forEach(draw);
}

function drawPicked(pane) {
  if (!picked.found || pane.name !== picked.side) return;
  const { ids, width, height } = picked.found.mask;
  const context = pane.canvas.getContext("2d");
  const picture = context.getImageData(0, 0, width, height);
  const reach = Math.max(1, Math.round(Math.min(width, height) / 240));
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && ids[y * width + x] > 0;
  for (let y = 0; y < height; y += 1)
    for (let x = 0; x < width; x += 1) {
      if (!ids[y * width + x]) continue;
      const edge = !inside(x - reach, y) || !inside(x + reach, y) || !inside(x, y - reach) || !inside(x, y + reach);
      const color = edge ? [255, 255, 255] : [255, 0, 160];
      const share = edge ? 1 : 0.25;
      for (let c = 0; c < 3; c += 1) picture.data[4 * (y * width + x) + c] += share * (color[c] - picture.data[4 * (y * width + x) + c]);
    }
  context.putImageData(picture, 0, 0);
  const marks = Math.max(3, Math.min(width, height) / 80);
  for (const [row, column, own] of picked.past.at(-1)) {
    context.beginPath();
    context.arc(((column + 0.5) * width) / state.data.width, ((row + 0.5) * height) / state.data.height, marks, 0, 7);
    context.fillStyle = own ? "#0a7" : "#c22";
    context.fill();
  }
}

function tellPicked(wrong) {
  const card = find(".ov-point");
  const select = make("select", { cls: "ov-how" }, ...HOW.map(([value, text]) => make("option", { value, text })));
  select.value = picked.how;
  select.addEventListener("change", () => (picked.how = select.value));
  const undo = make("button", { type: "button", cls: "ov-point-undo", text: "Undo click" });
  const clear = make("button", { type: "button", cls: "ov-point-clear", text: "Clear" });
  undo.disabled = clear.disabled = !picked.past.length;
  undo.addEventListener("click", undoPicked);
  clear.addEventListener("click", () => {
    picked.past = [];
    askPicked();
  });
  const held = card.contains(document.activeElement) ? document.activeElement.className : "";
  card.replaceChildren(make("h2", { text: "Picked by clicks" }), make("p", { cls: "ov-correct" }, make("label", {}, "A click ", select), undo, clear));
  if (held) card.querySelector(`.${held.split(" ")[0]}:not(:disabled)`)?.focus();
  if (wrong) card.append(make("p", { cls: "ov-wrong", role: "alert", text: wrong }));
  const { found } = picked;
  if (!found) return;
  const list = make("ol", { cls: "ov-picked" });
  for (const [name, score] of found.names) list.append(make("li", {}, make("span", { cls: "ov-name", text: name }), " ", make("span", { cls: "ov-share", text: percent(score) })));
  const many = picked.past.at(-1).length;
  card.append(list, make("p", { cls: "ov-faint", text: `${found.area} pixels by ${many} click${many > 1 ? "s" : ""}, in ${found.seconds.toFixed(2)} seconds` }));
}

element.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input[type=text], textarea");
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !typing && picked.past.length) {
    event.preventDefault();
    undoPicked();
  }
});
