// The page: the chosen sound, the tools of the map, new sounds, effects, and the sounds of this session.
import { SoundMap, colour } from "./map.js";
import { blob, bytes, messages, post, read, send, sentence } from "./server.js";
import * as sound from "./sound.js";

const LARGEST_FILE = 50e6;
const MOST_CORNERS = 512;
const MOST_WAYPOINTS = 16;
const HINTS = {
  listen: "Press a dot to hear it and choose it; drag the ground to move the map. With the keyboard: arrows, then Enter.",
  path: "Drag over the map, or press corner after corner; with Shift, dragging moves the map. You hear a PATH, so it is none of these clips.",
  waypoints: "Press two dots or more. You hear an interpolation from the first to the last.",
};
const $ = (id) => document.getElementById(id);

let run = null;
let map = null;
let tool = "listen";
let hand = null;
let making = null;
let number = 0;
let heardLast = null;
const slots = { a: null, b: null };
const shelf = new Map();

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const isClip = (item) => item.key !== undefined;
const shownSeconds = (seconds) => (seconds < 60 ? `${seconds.toFixed(2)} s` : `${(seconds / 60).toFixed(1)} min`);
const nameOf = (item) => (isClip(item) ? item.key.split("/").pop() : `${item.number} · ${item.title}`);

function guarded(action) {
  return async (...given) => {
    try {
      await action(...given);
    } catch (error) {
      say(sentence(error.message), true);
    }
  };
}

// -- hearing -----------------------------------------------------------------------------------------------------------

const source = (item) => (isClip(item) ? `/api/clips/${item.id}` : `/api/sounds/${item.id}`);
const buffer = (item) => sound.load(item.id, () => bytes(source(item)));

function firstSound(milliseconds) {
  document.body.dataset.firstSound = milliseconds;
  return `first sound after ${milliseconds} ms`;
}

const hear = guarded(async (item, since = performance.now()) => {
  heardLast = item;
  await sound.wake();
  const loaded = await buffer(item);
  if (heardLast !== item) return;
  const after = sound.play(loaded, since, () => mark(null));
  mark(item);
  const label = isClip(item) && item.label >= 0 ? `${run.labels[item.label]}, ` : "";
  const part = loaded.duration < item.seconds - 0.1 ? `, of which the first ${shownSeconds(loaded.duration)}` : "";
  say(`${nameOf(item)} (${label}${shownSeconds(item.seconds)}${part}): ${firstSound(after)}`);
});

function mark(item) {
  document.querySelectorAll(".shelf li").forEach((row) => row.classList.toggle("playing", item?.id === row.dataset.id));
}

function take(item) {
  hand = item;
  map.selected = item;
  map.draw();
  $("hand-name").textContent = item ? `${nameOf(item)} · ${shownSeconds(item.seconds)}` : "Nothing yet.";
  ["hand-play", "hand-a", "hand-b"].forEach((id) => ($(id).disabled = !item));
  document.querySelectorAll(".shelf li").forEach((row) => row.classList.toggle("taken", item?.id === row.dataset.id));
  refreshForms();
}

function put(slot) {
  slots[slot] = hand;
  $(`${slot}-name`).textContent = nameOf(hand);
  $("compare").disabled = !(slots.a && slots.b);
}

const compare = guarded(async () => {
  // A dot that is still loading must not be played over the comparison.
  const asked = {};
  heardLast = asked;
  await sound.wake();
  const both = await Promise.all([buffer(slots.a), buffer(slots.b)]);
  if (heardLast !== asked) return;
  let heard = 0;
  const show = () => say(`You hear ${heard ? "B" : "A"}: ${nameOf(heard ? slots.b : slots.a)}. Switch with the key X.`);
  const change = sound.compare(...both, () => {
    $("switch").disabled = true;
    $("switch").onclick = null;
  });
  $("switch").disabled = false;
  $("switch").onclick = () => {
    heard = 1 - heard;
    change(heard);
    show();
  };
  show();
});

// -- making ------------------------------------------------------------------------------------------------------------

function samples(data) {
  const raw = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return new Float32Array(raw.buffer);
}

// Asks for a sound, plays it while it grows, and puts it on the shelf.
const make = guarded(async (path, order, what) => {
  const since = performance.now();
  if (making) {
    await post("/api/cancel");
    await making.catch(() => {});
  }
  making = growing(path, order, what, since);
  $("cancel").disabled = false;
  document.body.dataset.busy = "yes";
  try {
    await making;
  } finally {
    making = null;
    $("cancel").disabled = true;
    delete document.body.dataset.busy;
  }
});

async function growing(path, order, what, since) {
  // The server begins while the browser opens its output.
  const waking = sound.wake();
  heardLast = null;
  say(`${what} …`);
  const player = sound.growing(since, () => mark(null));
  let first = null;
  for await (const message of messages(path, order)) {
    await waking;
    if (message.kind === "samples") first = player.push(samples(message.data)) ?? first;
    if (message.kind === "cancelled") {
      sound.stop();
      say("Cancelled.");
      return;
    }
    if (message.kind === "sound") {
      add(message);
      take(shelf.get(message.sound.id));
      const { how, seconds } = message.sound;
      say(`${what}: ${shownSeconds(seconds)}, ${how}${first === null ? "" : `; ${firstSound(first)}`}.`);
    }
  }
  player.finish();
}

function add({ sound: made, dropped = [] }) {
  dropped.forEach((id) => {
    const gone = shelf.get(id);
    shelf.delete(id);
    document.querySelector(`.shelf li[data-id="${id}"]`)?.remove();
    for (const slot of ["a", "b"]) if (slots[slot] === gone) slots[slot] = null;
  });
  made.number = ++number;
  shelf.set(made.id, made);
  map.sounds = [...shelf.values()];
  $("shelf").prepend(row(made));
  $("none").hidden = true;
  map.draw();
}

// -- the shelf ---------------------------------------------------------------------------------------------------------

function button(text, action, label) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

function row(made) {
  const item = document.createElement("li");
  item.dataset.id = made.id;
  const name = nameOf(made);
  const picture = document.createElement("img");
  picture.alt = "";
  blob(`/api/pictures/${made.id}`).then(
    (content) => (picture.src = URL.createObjectURL(content)),
    () => picture.remove(),
  );
  const play = button("▶", () => hear(made), `Play ${name}`);
  play.className = "play";
  const title = document.createElement("button");
  title.type = "button";
  title.className = "title";
  title.append(Object.assign(document.createElement("b"), { textContent: name }));
  title.append(Object.assign(document.createElement("span"), { textContent: `${shownSeconds(made.seconds)} · ${made.how}` }));
  title.addEventListener("click", () => take(made));
  title.setAttribute("aria-label", `Choose ${name}`);
  const keep = button("Keep", guarded(() => keepSound(made, keep)), `Keep ${name}`);
  keep.className = "keep";
  if (!made.made) keep.hidden = true;
  item.append(play, picture, title, keep);
  if (made.kept) shownKept(made, keep);
  return item;
}

async function keepSound(made, keep) {
  const answer = await post("/api/keep", { sound: made.id });
  Object.assign(made, answer.sound, { number: made.number });
  shownKept(made, keep);
  say(`Kept as ${made.kept} in ${answer.folder}.`);
}

function shownKept(made, keep) {
  keep.textContent = "Kept";
  keep.disabled = true;
  keep.title = made.kept;
}

// -- the map -----------------------------------------------------------------------------------------------------------

function chooseTool(name) {
  tool = name;
  document.querySelectorAll("[data-tool]").forEach((one) => one.setAttribute("aria-pressed", one.dataset.tool === name));
  $("tool-hint").textContent = HINTS[name].replace("PATH", run.path);
  $("path-tools").hidden = name === "listen";
  $("map").style.cursor = name === "listen" ? "pointer" : "crosshair";
  refreshPath();
}

const points = () => (tool === "path" ? map.path : map.waypoints);

function refreshPath() {
  const enough = points().length >= (tool === "path" ? 1 : 2);
  $("hear-path").disabled = !enough;
  $("undo-point").disabled = $("clear-path").disabled = !points().length;
  map.draw();
}

// At most as many corners as the server takes, evenly chosen.
function thinned(path) {
  if (path.length <= MOST_CORNERS) return path;
  const step = (path.length - 1) / (MOST_CORNERS - 1);
  return Array.from({ length: MOST_CORNERS }, (_, k) => path[Math.round(k * step)]);
}

function hearPath() {
  const seconds = $("path-seconds").value ? Number($("path-seconds").value) : null;
  const label = $("generate").elements.label.value || null;
  if (tool === "path") make("/api/path", { points: thinned(map.path), seconds, label }, "Path");
  else make("/api/through", { sounds: map.waypoints.map((item) => item.id), seconds }, "Interpolation");
}

function press(item, at, since) {
  if (tool === "listen" && item) {
    take(item);
    hear(item, since);
  } else if (tool === "waypoints" && item) {
    if (map.waypoints.length === MOST_WAYPOINTS) say(`There are ${MOST_WAYPOINTS} way-points, which is the most.`, true);
    else map.waypoints.push(item);
    hear(item, since);
    refreshPath();
  } else if (tool === "path" && at) {
    map.path.push(at);
    refreshPath();
  }
}

// What the fingers and the mouse do on the map: press, draw, move the map, or magnify it.
function watchMap() {
  const canvas = $("map");
  const at = (event) => [event.offsetX, event.offsetY];
  const down = new Map();
  let drawing = null;
  let moving = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    const here = at(event);
    down.set(event.pointerId, here);
    canvas.setPointerCapture(event.pointerId);
    if (down.size > 1) {
      // Two fingers magnify; what the first one has begun is no drawing and no press.
      if (drawing) map.path = drawing.before;
      drawing = null;
      moving = { pinching: true };
      return;
    }
    const item = map.nearest(here);
    const drags = event.shiftKey || event.button === 1;
    if (event.button === 1) event.preventDefault();
    if (tool === "path" && !drags) drawing = { begun: here, moved: false, before: map.path };
    else if (item && !drags && event.pointerType === "mouse") press(item, null, performance.now());
    // A finger presses where it is lifted, unless it has moved the map.
    else moving = { begun: here, moved: false, item: drags ? null : item };
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = down.get(event.pointerId);
    if (before && moving?.pinching) pinch(down, event.pointerId, [x, y]);
    if (before) down.set(event.pointerId, [x, y]);
    if (moving) {
      if (moving.pinching) return;
      moving.moved ||= Math.hypot(x - moving.begun[0], y - moving.begun[1]) > 6;
      if (moving.moved && before) moveMap(x - before[0], y - before[1]);
      return;
    }
    if (drawing) {
      if (!drawing.moved && Math.hypot(x - drawing.begun[0], y - drawing.begun[1]) > 6) {
        drawing.moved = true;
        map.path = [map.toPlane(drawing.begun)];
      }
      if (drawing.moved) map.trace([x, y]);
      return;
    }
    point(map.nearest([x, y]), event.pointerType);
  });
  canvas.addEventListener("pointerup", (event) => {
    down.delete(event.pointerId);
    if (moving) {
      const { pinching, moved, item } = moving;
      if (!down.size) moving = null;
      if (!pinching && !moved && item) press(item, null, performance.now());
      return;
    }
    if (!drawing) return;
    const { moved } = drawing;
    drawing = null;
    if (moved) hearPath();
    else press(null, map.toPlane(at(event)));
    refreshPath();
  });
  canvas.addEventListener("pointercancel", (event) => {
    down.delete(event.pointerId);
    drawing = null;
    if (!down.size) moving = null;
  });
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("keydown", (event) => {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow) {
      const next = map.neighbour(...arrow);
      if (tool === "listen") take(next);
      map.selected = next;
      map.reveal(next);
      point(next, "mouse");
      map.draw();
    } else if (["Enter", " "].includes(event.key) && map.selected) {
      press(map.selected, map.place(map.selected), performance.now());
    } else return;
    event.preventDefault();
  });
}

// -- magnifying --------------------------------------------------------------------------------------------------------

function magnify(ratio, from, to) {
  map.zoomBy(ratio, from, to);
  showZoom();
}

// Keys and buttons hold what is selected where it is, or the middle of what is seen.
function magnifyHere(ratio) {
  const { clientWidth: width, clientHeight: height } = $("map");
  const selected = map.selected && map.toScreen(map.place(map.selected));
  const seen = selected && selected[0] >= 0 && selected[0] <= width && selected[1] >= 0 && selected[1] <= height;
  magnify(ratio, seen ? selected : [width / 2, height / 2]);
}

function moveMap(dx, dy) {
  map.moveBy(dx, dy);
  $("over").textContent = "";
}

function wholeMap() {
  map.showAll();
  map.draw();
  showZoom();
}

function showZoom() {
  $("zoom-all").textContent = `${map.zoom < 10 ? map.zoom.toFixed(1).replace(".0", "") : map.zoom.toFixed(0)} ×`;
}

// One of two fingers has moved.
function pinch(down, id, now) {
  const other = [...down].find(([one]) => one !== id)?.[1];
  if (!other) return;
  const before = down.get(id);
  const middle = ([x, y]) => [(x + other[0]) / 2, (y + other[1]) / 2];
  const apart = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
  magnify(apart(now) / apart(before), middle(before), middle(now));
}

function watchZoom() {
  const canvas = $("map");
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode ? 16 : 1;
      // A pinch on a touchpad comes as a wheel with Ctrl, in smaller steps.
      const speed = event.ctrlKey ? 0.01 : 0.002;
      magnify(Math.exp(-speed * lines * event.deltaY), [event.offsetX, event.offsetY]);
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", (event) => {
    if (tool === "listen") magnify(2, [event.offsetX, event.offsetY]);
  });
  $("zoom-in").addEventListener("click", () => magnifyHere(1.5));
  $("zoom-out").addEventListener("click", () => magnifyHere(1 / 1.5));
  $("zoom-all").addEventListener("click", wholeMap);
}

// Shows the name of what is pointed at, and lets it sound where the user wants that.
function point(item, how) {
  if (item === map.pointed) return;
  map.pointed = item;
  $("over").textContent = item ? nameOf(item) + (isClip(item) && item.label >= 0 ? ` · ${run.labels[item.label]}` : "") : "";
  if (item && how === "mouse" && tool !== "path" && $("hover").checked && sound.awake() && !making) hear(item);
  map.draw();
}

function legend() {
  run.labels.forEach((label, k) => {
    const item = document.createElement("li");
    const shown = button(label, () => {
      const hide = !map.hidden.has(k);
      if (hide) map.hidden.add(k);
      else map.hidden.delete(k);
      shown.setAttribute("aria-pressed", !hide);
      map.draw();
    });
    shown.setAttribute("aria-pressed", "true");
    shown.style.setProperty("--dot", colour(k, false));
    shown.style.setProperty("--dot-dark", colour(k, true));
    item.append(shown);
    $("legend").append(item);
  });
}

// -- the forms ---------------------------------------------------------------------------------------------------------

function options(select, names, none) {
  select.replaceChildren(new Option(none, ""), ...names.map((name) => new Option(name, name)));
}

function refreshForms() {
  const form = $("generate").elements;
  const start = form.start.value;
  [...form.start].forEach((choice) => (choice.disabled = choice.value !== "nothing" && !hand));
  if (!hand && start !== "nothing") form.start.value = "nothing";
  const show = (name, on) => (document.querySelector(`[data-of="${name}"]`).hidden = !on);
  show("label", run.prior_labels.length > 0);
  show("glide", run.prior_labels.length > 1 && !run.whole_clips);
  show("seconds", start !== "vary");
  show("amount", start === "vary");
  show("temperature", run.controls.includes("temperature") || start === "vary");
  show("guidance", run.controls.includes("guidance") && start !== "vary");
  // A glide needs a length where clips have none.
  const gliding = form.label.value !== "" && form.glide.value !== "" && !run.seconds;
  form.seconds.required = gliding && !document.querySelector('[data-of="seconds"]').hidden;
  form.seconds.placeholder = gliding ? "of the glide" : run.seconds ? `${run.seconds}` : "until it ends";
  $("apply").disabled = !hand || !$("chain").children.length;
}

function order() {
  const form = $("generate").elements;
  const shown = (name) => !document.querySelector(`[data-of="${name}"]`).hidden;
  const value = (name) => (shown(name) && form[name].value !== "" ? Number(form[name].value) : null);
  const label = form.label.value && form.glide.value ? `${form.label.value}:${form.glide.value}` : form.label.value || null;
  const start = form.start.value;
  return {
    start,
    label,
    sound: start === "nothing" ? null : hand.id,
    seconds: value("seconds"),
    temperature: value("temperature"),
    guidance: value("guidance"),
    amount: value("amount") ?? 0.3,
    seed: value("seed"),
  };
}

function addEffect() {
  const choice = run.effects.find((one) => one.kind === $("effect").value);
  const item = document.createElement("li");
  item.dataset.kind = choice.kind;
  const name = document.createElement("b");
  name.textContent = choice.kind;
  name.title = choice.about;
  item.append(name);
  for (const key of choice.keys) {
    const label = document.createElement("label");
    label.textContent = `${key.name.replaceAll("_", " ")} `;
    const field = document.createElement(key.choices.length ? "select" : "input");
    if (key.choices.length) options(field, key.choices, "");
    else Object.assign(field, { type: "number", step: "any", required: key.default === null });
    field.name = key.name;
    field.value = key.default ?? "";
    label.append(field);
    item.append(label);
  }
  item.append(
    button("Remove", () => {
      item.remove();
      refreshForms();
    }, `Remove ${choice.kind}`),
  );
  $("chain").append(item);
  refreshForms();
}

function chosenEffects() {
  return [...$("chain").children].map((item) => {
    const keys = [...item.querySelectorAll("input, select")].filter((field) => field.value !== "");
    const value = (field) => (field.type === "number" ? Number(field.value) : field.value);
    return { kind: item.dataset.kind, ...Object.fromEntries(keys.map((field) => [field.name, value(field)])) };
  });
}

const upload = guarded(async (file) => {
  if (!file) return;
  if (file.size > LARGEST_FILE) throw new Error(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB; at most 50 MB are taken.`);
  say(`Reading ${file.name} …`);
  const answer = await send(file);
  add(answer);
  const item = shelf.get(answer.sound.id);
  take(item);
  say(sentence([`${item.title} is the chosen sound`, ...answer.notes].join("; ")));
});

function watchFiles() {
  $("upload").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    await upload($("file").files[0]);
    $("file").value = "";
  });
  const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    $("dropping").hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("dropping").hidden = true;
  });
  window.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    $("dropping").hidden = true;
    upload(event.dataTransfer.files[0]);
  });
}

function watchKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") sound.stop();
    if (["+", "="].includes(event.key)) magnifyHere(1.5);
    if (["-", "−"].includes(event.key)) magnifyHere(1 / 1.5);
    if (event.key === "0") wholeMap();
    if (event.key.toLowerCase() === "x") $("switch").onclick?.();
  });
}

function fillForms() {
  const form = $("generate").elements;
  options(form.label, run.prior_labels, "any");
  options(form.glide, run.prior_labels, "–");
  // A variation needs the latents of the corpus.
  document.querySelector("[value=vary]").closest("label").hidden = !run.varies;
  form.temperature.value = run.temperature;
  form.guidance.value = run.guidance;
  $("effect").replaceChildren(...run.effects.map((one) => new Option(one.kind, one.kind)));
}

function watchForms() {
  $("hand-play").addEventListener("click", () => hear(hand));
  for (const slot of ["a", "b"]) $(`hand-${slot}`).addEventListener("click", () => put(slot));
  $("compare").addEventListener("click", compare);
  $("generate").addEventListener("change", refreshForms);
  $("generate").addEventListener("submit", (event) => {
    event.preventDefault();
    const start = order().start;
    make("/api/generate", order(), { nothing: "New sound", continue: "Continuation", vary: "Variation" }[start]);
  });
  $("cancel").addEventListener("click", guarded(() => post("/api/cancel")));
  $("add-effect").addEventListener("click", addEffect);
  $("effects").addEventListener("submit", (event) => {
    event.preventDefault();
    make("/api/effects", { sound: hand.id, effects: chosenEffects() }, "Effects");
  });
  document.querySelectorAll("[data-tool]").forEach((one) => one.addEventListener("click", () => chooseTool(one.dataset.tool)));
  $("hear-path").addEventListener("click", hearPath);
  $("undo-point").addEventListener("click", () => {
    points().pop();
    refreshPath();
  });
  $("clear-path").addEventListener("click", () => {
    points().length = 0;
    refreshPath();
  });
}

async function begin() {
  run = await read("/api/run");
  document.title = `${run.name} · actseq`;
  document.querySelector("h1").textContent = run.name;
  const clips = run.clips.map(([id, x, y, label, seconds, key]) => ({ id, x, y, label, seconds, key }));
  const explained = Math.round(100 * (run.explained[0] + run.explained[1]));
  $("about").textContent =
    (run.generated
      ? `${clips.length} generated clips, the same at each start: this run is packed and has no corpus. `
      : `${clips.length} clips. `) +
    `Near dots tend to sound alike. The map shows ${explained} % of the differences that the run hears between sounds; ` +
    `the rest does not fit on a plane.`;
  sound.setRate(run.sample_rate);
  map = new SoundMap($("map"), clips);
  fillForms();
  legend();
  watchMap();
  watchZoom();
  watchForms();
  watchFiles();
  watchKeys();
  run.sounds.forEach((one) => add({ sound: one }));
  chooseTool("listen");
  refreshForms();
  document.body.dataset.ready = "yes";
}

guarded(begin)();
