// The answer: panes with legends, reasons, corrections, downloads. Names are put into the page as text, never as HTML.
const find = (selector) => element.querySelector(selector);
const state = { data: null, photo: null, panes: [], mode: "classes", alpha: 0.55, only: null, point: null, heat: null };
let newest = 0;

function make(tag, options = {}, ...children) {
  const { cls, text, ...rest } = options;
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(rest)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : share >= 0.0995 ? `${Math.round(100 * share)}%` : `${(100 * share).toFixed(1)}%`);
const number = (value) => value.toFixed(value >= 10 ? 1 : 2);
const sure = (score) => `${score.toFixed(2)} sure`; // the score of a label, 0..1; those of words are raw
const css = (color) => `rgb(${color.join(",")})`;

// ---- what is shown

async function show(data) {
  const turn = ++newest;
  find(".ov-empty").hidden = Boolean(data);
  find(".ov-work").hidden = !data;
  if (!data) return;
  const fresh = !state.data || state.data.session !== data.session;
  const photo = fresh ? await bytesOf(data.photo) : state.photo;
  const sides = await Promise.all(
    Object.entries(data.sides).map(async ([name, side]) => ({
      name,
      side,
      labels: await numbersOf(side.labels),
      segments: side.segments && (await numbersOf(side.segments.map)),
      objects: side.objects && (await numbersOf(side.objects.map)),
    })),
  );
  const changed = data.difference && (await numbersOf(data.difference.map));
  if (turn !== newest) return; // another answer has come meanwhile
  sessionStorage.setItem("ovseg", data.session);
  localStorage.setItem("ovseg", data.session);
  if (fresh) state.point = null;
  forgetPicked();
  Object.assign(state, { data, photo, heat: null });
  if (state.only && !data.sides[state.only.side]?.classes[state.only.id]?.share) state.only = null;
  buildPanes(sides, changed);
  buildModes(sides);
  buildFiles();
  buildNotes();
  drawAll();
  if (state.point && data.sides[state.point.side]) await askWhy();
  else explain(null);
}

function buildPanes(sides, changed) {
  const holder = find(".ov-panes");
  holder.replaceChildren();
  holder.classList.toggle("ov-several", sides.length > 1);
  state.panes = [];
  if (!sides.length) {
    const canvas = newCanvas(`The photograph ${state.data.name}`);
    holder.append(make("figure", { cls: "ov-pane" }, canvas));
    state.panes.push({ name: "", canvas });
  }
  for (const pane of sides) {
    const present = pane.side.classes.filter((entry) => entry.share > 0);
    const told = present.sort((a, b) => b.share - a.share).slice(0, 8).map((entry) => `${entry.name} ${percent(entry.share)}`);
    pane.canvas = newCanvas(`Answer ${pane.name} for ${state.data.name}: ${told.join(", ") || "no class"}. Arrow keys move a cross, Enter asks why.`);
    pane.canvas.tabIndex = 0;
    pane.canvas.dataset.side = pane.name;
    pane.legend = make("ul", { cls: "ov-legend", "aria-label": `Legend of answer ${pane.name}` });
    const title = `${sides.length > 1 ? `${pane.name} · ` : ""}${pane.side.model} · background ${pane.side.policy}`;
    const box = make("div", { cls: "ov-both" }, make("div", { cls: "ov-stage" }, pane.canvas), pane.legend);
    holder.append(make("figure", { cls: "ov-pane" }, make("figcaption", { text: title }), box));
    listen(pane);
    state.panes.push(pane);
  }
  if (changed) {
    const share = percent(state.data.difference.share);
    const canvas = newCanvas(`Where the two answers differ: ${share} of the pixels`);
    const title = make("figcaption", { text: `Difference · ${share} of the pixels have another name` });
    holder.append(make("figure", { cls: "ov-pane ov-difference" }, title, make("div", { cls: "ov-stage" }, canvas)));
    state.panes.push({ name: "difference", canvas, changed });
  }
}

function newCanvas(told) {
  const canvas = make("canvas", { role: "img", "aria-label": told });
  canvas.width = state.photo.width;
  canvas.height = state.photo.height;
  return canvas;
}

function buildModes(sides) {
  const modes = [["classes", "classes"]];
  if (sides.some((pane) => pane.segments)) modes.push(["segments", "panoptic segments"]);
  if (sides.some((pane) => pane.objects)) modes.push(["objects", "objects"]);
  modes.push(["sure", "how sure (heat map)"], ["heat", "scores of one class (heat map)"]);
  const select = find(".ov-mode");
  select.replaceChildren(...modes.map(([value, text]) => make("option", { value, text })));
  if (!modes.some(([value]) => value === state.mode)) state.mode = "classes";
  select.value = state.mode;
  find(".ov-bar").hidden = !sides.length;
}

// ---- drawing

function drawAll() {
  for (const pane of state.panes) draw(pane);
  for (const pane of state.panes) if (pane.legend) buildLegend(pane);
  find(".ov-all").hidden = !state.only;
}

function draw(pane) {
  const photo = state.photo.data;
  if (!pane.name) paint(pane.canvas, photo, 0, () => null, null);
  else if (pane.changed) paint(pane.canvas, photo, 0.7, (i) => (pane.changed.ids[i] ? [255, 64, 96] : null), null);
  else paint(pane.canvas, photo, state.alpha, ...coloring(pane));
  if (state.point && pane.name) drawCross(pane.canvas);
  drawPicked(pane);
}

function coloring(pane) {
  const { side, labels } = pane;
  const only = state.only?.side === pane.name ? state.only.id + 1 : 0;
  if (state.mode === "segments" || state.mode === "objects") {
    const [map, part] = [pane[state.mode], side[state.mode]];
    if (!map) return [() => null, null];
    return [(i) => (map.ids[i] ? part.list[map.ids[i] - 1].color : null), map.ids];
  }
  if (state.mode === "sure") return [(i) => heatColor(labels.third[i] / 255), null];
  if (state.mode === "heat") {
    const heat = state.heat?.side === pane.name ? state.heat : null;
    return heat ? [(i) => heatColor(heat.data[4 * i] / 255), null] : [() => null, null];
  }
  const colors = [null, ...side.classes.map((entry) => entry.color)];
  return [(i) => (only && labels.ids[i] !== only ? null : colors[labels.ids[i]]), labels.ids];
}

function drawCross(canvas) {
  const context = canvas.getContext("2d");
  const { x, y } = state.point;
  const size = Math.max(7, Math.min(canvas.width, canvas.height) / 40);
  for (const [width, color] of [[5, "#000a"], [2, "#fff"]]) {
    context.lineWidth = (width * size) / 12;
    context.strokeStyle = color;
    context.beginPath();
    context.arc(x, y, size, 0, 7);
    context.moveTo(x - 1.6 * size, y);
    context.lineTo(x + 1.6 * size, y);
    context.moveTo(x, y - 1.6 * size);
    context.lineTo(x, y + 1.6 * size);
    context.stroke();
  }
}

// ---- legend

function swatch(color) {
  const mark = make("span", { cls: "ov-swatch", "aria-hidden": "true" });
  mark.style.background = css(color);
  return mark;
}

function buildLegend(pane) {
  const { side } = pane;
  const rows = [];
  if (state.mode === "segments" || state.mode === "objects") {
    const part = side[state.mode];
    for (const own of part?.list ?? []) rows.push(make("li", {}, swatch(own.color), make("span", { cls: "ov-name", text: own.name }), make("span", { cls: "ov-share", text: number(own.score) })));
    if (part?.more) rows.push(make("li", { cls: "ov-faint", text: `and ${part.more} more with lower scores` }));
    if (!rows.length) rows.push(make("li", { cls: "ov-faint", text: "none found" }));
  } else {
    const order = side.classes.map((entry, id) => ({ ...entry, id })).filter((entry) => entry.share > 0 || (state.mode === "heat" && side.classes.length <= 60));
    order.sort((a, b) => b.share - a.share || a.id - b.id);
    for (const entry of order) rows.push(legendRow(pane, entry));
    if (side.nothing > 1e-9 && state.mode !== "heat") rows.push(make("li", { cls: "ov-faint" }, swatch(GREY), make("span", { cls: "ov-name", text: "no class" }), make("span", { cls: "ov-share", text: percent(side.nothing) })));
    const absent = side.classes.length - order.length;
    if (absent > 0) rows.push(make("li", { cls: "ov-faint", text: `${absent} more word${absent > 1 ? "s were" : " was"} not found` }));
  }
  if (state.mode === "sure" || state.mode === "heat") rows.unshift(scale(pane));
  pane.legend.replaceChildren(...rows);
}

function legendRow(pane, entry) {
  const chosen = state.only?.side === pane.name && state.only.id === entry.id;
  const share = make("span", { cls: "ov-share", text: percent(entry.share) });
  const button = make("button", { type: "button", "aria-pressed": String(chosen), title: [entry.name, ...entry.synonyms].join(" | ") }, swatch(entry.color), make("span", { cls: "ov-name", text: entry.name }), share);
  button.addEventListener("click", () => {
    state.only = chosen ? null : { side: pane.name, id: entry.id };
    if (state.mode === "heat") askHeat();
    drawAll();
    pane.legend.querySelector(chosen ? "button" : "[aria-pressed=true]")?.focus();
  });
  return make("li", {}, button);
}

function scale(pane) {
  const bar = make("span", { cls: "ov-scale", "aria-hidden": "true" });
  bar.style.background = `linear-gradient(90deg,${[0, 0.25, 0.5, 0.75, 1].map((v) => css(heatColor(v))).join(",")})`;
  const heat = state.mode === "heat" && state.heat?.side === pane.name ? state.heat : null;
  const told = state.mode === "sure" ? "1 · score of each label" : heat ? `${number(heat.most)} · scores of ${heat.name}` : "choose a class below";
  return make("li", { cls: "ov-faint ov-scale-row" }, make("span", { text: "0" }), bar, make("span", { text: told }));
}

// ---- the pointer, and reasons

function listen(pane) {
  const { canvas } = pane;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const within = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value * most)));
    return { x: within((event.clientX - box.left) / box.width, canvas.width), y: within((event.clientY - box.top) / box.height, canvas.height) };
  };
  canvas.addEventListener("mousemove", (event) => tell(pane, place(event)));
  canvas.addEventListener("mouseleave", () => (find(".ov-hover").textContent = ""));
  canvas.addEventListener("click", (event) => choose(pane, place(event), true, event));
  canvas.addEventListener("keydown", (event) => {
    const step = Math.max(1, Math.round(canvas.width / (event.shiftKey ? 20 : 100)));
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    const now = state.point ?? { x: canvas.width >> 1, y: canvas.height >> 1 };
    if (move) {
      const x = Math.max(0, Math.min(canvas.width - 1, now.x + move[0]));
      const y = Math.max(0, Math.min(canvas.height - 1, now.y + move[1]));
      choose(pane, { x, y }, false);
      tell(pane, { x, y });
    } else if (event.key === "Enter" || event.key === " ") choose(pane, now, true, event);
    else return;
    event.preventDefault();
  });
}

function tell(pane, { x, y }) {
  const { labels, side } = pane;
  const i = y * labels.width + x;
  const name = labels.ids[i] ? side.classes[labels.ids[i] - 1].name : "no class";
  find(".ov-hover").replaceChildren(make("bdi", { text: name }), ` · ${sure(labels.third[i] / 255)}`);
}

function choose(pane, { x, y }, ask, event) {
  const { width, height } = state.data;
  const { canvas } = pane;
  const column = Math.min(width - 1, Math.floor(((x + 0.5) * width) / canvas.width));
  const row = Math.min(height - 1, Math.floor(((y + 0.5) * height) / canvas.height));
  state.point = { side: pane.name, x, y, row, column };
  for (const one of state.panes) draw(one);
  if (ask) askWhy(), pick(event);
}

async function askWhy() {
  const { data, point } = state;
  const { side, row, column } = point;
  const found = await ask("why", { side, row, column });
  if (state.data === data && state.point === point) explain(found);
}

async function ask(name, rest) {
  try {
    const { session, sides } = state.data;
    return await server[name]({ session, turn: sides[rest.side].turn, ...rest });
  } catch (error) {
    return { error: "the server does not answer; is it still running?" };
  }
}

function explain(found) {
  const card = find(".ov-why");
  card.replaceChildren(make("h2", { text: "Why this label" }));
  if (!found) {
    const has = Object.keys(state.data.sides).length;
    card.append(make("p", { cls: "ov-faint", text: has ? "Click a pixel, or go there with the arrow keys and press Enter." : "Type words and press Segment." }));
    return;
  }
  if (found.error) {
    card.append(make("p", { cls: "ov-wrong", role: "alert", text: found.error }));
    return;
  }
  const where = `row ${found.row}, column ${found.column}${state.panes.length > 1 ? ` of ${state.point.side}` : ""}`;
  const label = make("strong", { text: found.label || "no class" });
  card.append(make("p", {}, label, ` · ${sure(found.score)} · ${where}${found.corrected ? " · named by hand" : ""}`));
  const most = Math.max(...found.top.map((one) => one.score), found.background?.score ?? 0, 1e-9);
  const list = make("ol", { cls: "ov-top" });
  for (const one of found.top) list.append(reason(one.name, one.word, one.score, most, one.color));
  if (found.background) list.append(reason("no class", found.background.word, found.background.score, most, GREY));
  const raw = most > 1 ? "; sums over masks may exceed 1" : "";
  card.append(make("p", { cls: "ov-small", text: `Scores of the best words, as the model gives them${raw}` }), list);
  const margin = found.margin === null ? "" : `The first is ahead of the second by ${number(found.margin)}.`;
  card.append(make("p", { cls: "ov-faint", text: [margin, found.remark && `But ${found.remark}.`].filter(Boolean).join(" ") }));
  card.append(correction(found));
}

function reason(name, word, score, most, color) {
  const bar = make("span", { cls: "ov-meter", "aria-hidden": "true" }, make("span"));
  bar.firstChild.style.width = `${Math.max(1, (100 * Math.max(0, score)) / most)}%`;
  bar.firstChild.style.background = css(color);
  const by = word && word !== name ? make("span", { cls: "ov-faint", text: ` by “${word}”` }) : null;
  return make("li", {}, make("span", { cls: "ov-name" }, name, ...(by ? [by] : [])), bar, make("span", { cls: "ov-share", text: number(score) }));
}

// ---- corrections

function correction(found) {
  const { side } = state.point;
  const known = make("datalist", { id: "ov-names" });
  for (const entry of state.data.sides[side].classes) known.append(make("option", { value: entry.name }));
  const field = make("input", { type: "text", list: "ov-names", "aria-label": "Another name for this region", placeholder: "another name", maxlength: "200" });
  const rename = make("button", { type: "submit", cls: "ov-rename", text: "Rename region" });
  const nothing = make("button", { type: "button", cls: "ov-nothing", text: "No class" });
  const undo = make("button", { type: "button", cls: "ov-undo", text: "Undo" });
  undo.disabled = !state.data.sides[side].corrections;
  const form = make("form", { cls: "ov-correct", "aria-label": "Correct" }, field, known, rename, nothing, undo);
  const change = async (name, rest) => {
    const answer = await ask(name, { side, ...rest });
    if (answer.error) {
      form.querySelector(".ov-wrong")?.remove();
      form.append(make("p", { cls: "ov-wrong", role: "alert", text: answer.error }));
      return;
    }
    await show(answer);
    state.panes.find((pane) => pane.name === side)?.canvas.focus({ preventScroll: true }); // what had it is no more
  };
  const place = { row: found.row, column: found.column };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) change("correct", { ...place, name: field.value });
  });
  nothing.addEventListener("click", () => change("correct", { ...place, name: "" }));
  undo.addEventListener("click", () => change("undo", {}));
  return form;
}

// ---- heat maps, downloads, notes

async function askHeat() {
  const only = state.only ?? largest();
  if (!only) return;
  state.only = only;
  const found = await ask("heat", { side: only.side, class: only.id });
  if (found.error || state.mode !== "heat" || state.only !== only) return;
  const picture = await loadPicture(found.map);
  const canvas = newCanvas("");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  state.heat = { side: only.side, data, most: found.most, name: state.data.sides[only.side].classes[only.id].name };
  drawAll();
}

function largest() {
  const [side, own] = Object.entries(state.data.sides)[0] ?? [];
  if (!own) return null;
  const id = own.classes.reduce((best, entry, i) => (entry.share > own.classes[best].share ? i : best), 0);
  return { side, id };
}

function buildFiles() {
  const card = find(".ov-files");
  card.replaceChildren(make("h2", { text: "Download" }));
  for (const [name, side] of Object.entries(state.data.sides)) {
    const several = Object.keys(state.data.sides).length > 1;
    const told = [several ? `Answer ${name}` : "", side.corrections ? `${side.corrections} corrected` : ""].filter(Boolean).join(", ");
    if (told) card.append(make("p", { cls: "ov-faint", text: told }));
    const list = make("p", { cls: "ov-links" });
    for (const own of side.downloads) list.append(make("a", { href: own.href, download: "", title: own.summary, text: own.label }));
    card.append(list);
  }
  if (!Object.keys(state.data.sides).length) card.append(make("p", { cls: "ov-faint", text: "Nothing to download yet." }));
}

function buildNotes() {
  const { data } = state;
  const sides = Object.entries(data.sides);
  const all = sides.flatMap(([, side]) => side.notes);
  const shared = all.filter((note) => sides.every(([, side]) => side.notes.includes(note)));
  const own = sides.flatMap(([name, side]) => side.notes.filter((note) => !shared.includes(note)).map((note) => `${name}: ${note}`));
  const told = [...data.notes, ...shared, ...own];
  const { width } = state.photo;
  if (width < data.width) told.push(`drawn ${width} pixels wide; labels and downloads have the photograph's own ${data.width} x ${data.height}`);
  find(".ov-notes").replaceChildren(...[...new Set(told)].map((text) => make("li", { text })));
}

find(".ov-mode").addEventListener("change", (event) => {
  state.mode = event.target.value;
  if (state.mode === "heat") askHeat();
  drawAll();
});
find(".ov-alpha").addEventListener("input", (event) => {
  state.alpha = event.target.value / 100;
  for (const pane of state.panes) draw(pane);
});
find(".ov-all").addEventListener("click", () => {
  state.only = null;
  drawAll();
});

const read = () => show(props.value ? JSON.parse(props.value) : null);
watch("value", read);
read();
