"use strict";
// The data files call `begin` and `add`; `begin` loads the others. Everything is put into the page as text.
const review = (() => {
  const PER_PAGE = 60, UNSURE = 12;
  const $ = id => document.getElementById(id);
  let head = null, left = 0, rows = [], good = [], failed = [], shown = [], page = 0, open = -1;
  let classSort = { key: "images", way: -1 };

  const text = (tag, value, name = "") => {
    const node = document.createElement(tag);
    node.textContent = value;
    node.className = name;
    return node;
  };
  const images = count => count === 1 ? "1 image" : `${count} images`;
  const percent = share => share === 0 ? "0 %" : share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
  const compare = (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const swatch = id => {
    const node = text("span", "", "key");
    node.style.background = `rgb(${head.classes[id][1].join(",")})`;
    return node;
  };
  const by = value => (a, b) => value(a) - value(b) || compare(a.i, b.i);
  const covered = row => row.c.reduce((sum, [, share]) => sum + share, 0);
  const largest = row => row.c.reduce((best, one) => one[1] > best[1] ? one : best, [-1, -1, 0]);
  const areaOf = (row, id) => (row.c.find(one => one[0] === id) || [id, 0, 0])[1];

  function card(row) {
    const node = document.createElement("button");
    node.className = "card";
    node.type = "button";
    const image = document.createElement("img");
    image.loading = "lazy";
    image.decoding = "async";
    image.src = "thumbs/" + row.u;
    image.alt = "labels of " + row.i;
    const box = text("div", "", "text"), line = text("div", "", "line");
    const name = text("span", "", "name");
    name.append(text("bdi", row.i));
    name.title = row.i;
    line.append(name, text("span", row.s.toFixed(2), "n"));
    const top = [...row.c].sort((a, b) => b[1] - a[1]).slice(0, 3);
    box.append(line, text("div", top.map(one => head.classes[one[0]][0]).join(", ") || "no class", "what"));
    node.append(image, box);
    return node;
  }

  function classTable() {
    const stats = head.classes.map(([name], id) => ({ id, name, images: 0, share: 0, score: 0, area: 0 }));
    for (const row of good) for (const [id, share, score] of row.c) {
      const one = stats[id];
      one.images += 1; one.area += share; one.score += share * score;
    }
    for (const one of stats) {
      one.share = good.length ? one.area / good.length : 0;
      one.score = one.area ? one.score / one.area : 0;
    }
    const { key, way } = classSort;
    stats.sort((a, b) => way * (key === "name" ? compare(a.name, b.name) : a[key] - b[key]) || a.id - b.id);
    document.querySelectorAll("#classes thead button").forEach(button => {
      const own = button.dataset.key === key;
      button.parentNode.setAttribute("aria-sort", own ? (way > 0 ? "ascending" : "descending") : "none");
    });
    const body = document.querySelector("#classes tbody");
    body.replaceChildren(...stats.map(one => {
      const line = document.createElement("tr"), cell = document.createElement("td");
      const link = text("button", "", "link");
      link.type = "button";
      link.append(swatch(one.id), text("span", one.name));
      link.addEventListener("click", () => {
        $("only").value = String(one.id);
        choose();
        $("images-title").scrollIntoView({ block: "start" });
      });
      cell.append(link);
      line.append(cell, text("td", one.images, "n"), text("td", percent(one.share), "n"),
        text("td", one.images ? one.score.toFixed(2) : "", "n"));
      return line;
    }));
  }

  function choose() {
    const only = $("only").value === "" ? -1 : Number($("only").value), find = $("find").value.toLowerCase();
    const area = only < 0 ? covered : row => areaOf(row, only);
    const orders = {
      unsure: by(row => row.s), sure: by(row => -row.s), large: by(row => -area(row)), small: by(area),
      name: (a, b) => compare(a.i, b.i),
      class: by(row => largest(row)[0] < 0 ? head.classes.length : largest(row)[0]),
    };
    shown = good.filter(row => (only < 0 || areaOf(row, only) > 0) && row.i.toLowerCase().includes(find));
    shown.sort(orders[$("sort").value]);
    page = 0;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    const part = shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    $("grid").replaceChildren(...part.map((row, place) => {
      const node = card(row);
      node.addEventListener("click", () => show(page * PER_PAGE + place));
      return node;
    }));
    $("shown").textContent = `${shown.length} of ${images(good.length)}`;
    $("page").textContent = `page ${page + 1} of ${pages}`;
    $("back").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
  }

  function show(place) {
    const row = shown[place];
    if (!row) return;
    open = place;
    $("one-title").textContent = `${row.i}, score ${row.s.toFixed(3)}`;
    $("one-picture").src = "thumbs/" + row.u;
    $("one-picture").alt = "labels of " + row.i;
    const lines = [...row.c].sort((a, b) => b[1] - a[1]).map(([id, share, score]) => {
      const line = document.createElement("tr"), cell = document.createElement("td");
      cell.append(swatch(id), text("span", head.classes[id][0]));
      line.append(cell, text("td", percent(share), "n"), text("td", score.toFixed(2), "n"));
      return line;
    });
    $("one-classes").tBodies[0].replaceChildren(...lines);
    $("one-notes").replaceChildren(...(row.n || []).map(note => text("li", note)));
    $("one-back").disabled = place === 0;
    $("one-next").disabled = place >= shown.length - 1;
    if (!$("one").open) $("one").showModal();
  }

  function start() {
    good = rows.filter(row => row.e === undefined);
    failed = rows.filter(row => row.e !== undefined);
    $("counts").textContent = `${images(good.length)}, ${head.classes.length} classes, ${head.model}` +
      (failed.length ? `, ${failed.length} not labelled` : "");
    const unsure = [...good].sort(by(row => row.s)).slice(0, UNSURE);
    $("unsure").replaceChildren(...unsure.map(row => {
      const node = card(row);
      node.addEventListener("click", () => {
        $("only").value = ""; $("find").value = ""; $("sort").value = "unsure";
        choose();
        show(shown.indexOf(row));
      });
      return node;
    }));
    head.classes.forEach(([name], id) => {
      const option = text("option", name);
      option.value = id;
      $("only").append(option);
    });
    if (failed.length) {
      $("failures").hidden = false;
      $("failed-count").textContent = images(failed.length);
      $("failed").tBodies[0].append(...failed.map(row => {
        const line = document.createElement("tr");
        line.append(text("td", row.i), text("td", row.e));
        return line;
      }));
    }
    classTable();
    choose();
  }

  document.querySelectorAll("#classes thead button").forEach(button => button.addEventListener("click", () => {
    const key = button.dataset.key;
    classSort = { key, way: classSort.key === key ? -classSort.way : key === "name" ? 1 : -1 };
    classTable();
  }));
  for (const id of ["sort", "only"]) $(id).addEventListener("change", choose);
  $("find").addEventListener("input", choose);
  document.querySelector(".controls").addEventListener("submit", event => event.preventDefault());
  $("back").addEventListener("click", () => { page -= 1; draw(); $("images-title").scrollIntoView(); });
  $("next").addEventListener("click", () => { page += 1; draw(); $("images-title").scrollIntoView(); });
  $("one-back").addEventListener("click", () => show(open - 1));
  $("one-next").addEventListener("click", () => show(open + 1));
  $("close").addEventListener("click", () => $("one").close());
  $("one").addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") show(open - 1);
    if (event.key === "ArrowRight") show(open + 1);
  });

  return {
    begin(found) {
      head = found;
      left = found.parts.length;
      if (!left) start();
      for (const name of found.parts) {
        const script = document.createElement("script");
        script.src = name;
        script.async = false; // in order
        document.body.append(script);
      }
    },
    add(part) {
      rows = rows.concat(part);
      left -= 1;
      if (!left) start();
    },
  };
})();
