// The map: clips as dots, sounds of this session as rings, a path, and way-points, drawn on a canvas.
const MARGIN = 26;
const REACH = 22;
const STEP = 4;
const WIDEST = 0.5;
const CLOSEST = 64;

// Hues that can be told apart, then further turns of the golden angle.
const HUES = [250, 45, 145, 325, 95, 200, 15, 285, 120, 70, 350, 225];

export function colour(label, dark) {
  if (label < 0) return dark ? "oklch(0.72 0.01 250)" : "oklch(0.55 0.01 250)";
  const hue = label < HUES.length ? HUES[label] : (label * 137.5) % 360;
  const light = (dark ? 0.76 : 0.58) + (label % 2 ? 0.05 : 0);
  return `oklch(${light} ${dark ? 0.13 : 0.15} ${hue})`;
}

export class SoundMap {
  constructor(canvas, clips) {
    this.canvas = canvas;
    this.clips = clips;
    this.sounds = [];
    this.path = [];
    this.waypoints = [];
    this.hidden = new Set();
    this.pointed = null;
    this.selected = null;
    this.bounds = limits(clips.map((clip) => [clip.x, clip.y]));
    this.showAll();
    new ResizeObserver(() => this.draw()).observe(canvas);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributes: true });
  }

  // Both axes have one scale: a distance on the screen is a distance on the plane.
  projection() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [left, bottom, right, top] = this.bounds;
    const factor = this.zoom * Math.min((width - 2 * MARGIN) / (right - left), (height - 2 * MARGIN) / (top - bottom));
    const zero = [width / 2 - factor * this.centre[0], height / 2 + factor * this.centre[1]];
    return { factor, zero, toScreen: ([x, y]) => [zero[0] + factor * x, zero[1] - factor * y] };
  }

  showAll() {
    const [left, bottom, right, top] = this.bounds;
    this.zoom = 1;
    this.centre = [(left + right) / 2, (bottom + top) / 2];
  }

  // Magnifies; what was at `from` on the screen is at `to` afterwards.
  zoomBy(ratio, from, to = from) {
    const held = this.toPlane(from);
    this.zoom = Math.min(CLOSEST, Math.max(WIDEST, this.zoom * ratio));
    const now = this.toPlane(to);
    this.moveTo([this.centre[0] + held[0] - now[0], this.centre[1] + held[1] - now[1]]);
  }

  // Moves by pixels.
  moveBy(dx, dy) {
    const { factor } = this.projection();
    this.moveTo([this.centre[0] - dx / factor, this.centre[1] + dy / factor]);
  }

  // The middle of the canvas stays among the clips.
  moveTo([x, y]) {
    const [left, bottom, right, top] = this.bounds;
    this.centre = [Math.min(right, Math.max(left, x)), Math.min(top, Math.max(bottom, y))];
    this.draw();
  }

  // Moves to an item that is out of sight.
  reveal(item) {
    if (!item || item.place === null) return;
    const [x, y] = this.toScreen(this.place(item));
    const inside = (at, size) => at > MARGIN / 2 && at < size - MARGIN / 2;
    if (!inside(x, this.canvas.clientWidth) || !inside(y, this.canvas.clientHeight)) this.moveTo(this.place(item));
  }

  toScreen(place) {
    return this.projection().toScreen(place);
  }

  toPlane([x, y]) {
    const { factor, zero } = this.projection();
    return [(x - zero[0]) / factor, (zero[1] - y) / factor];
  }

  // Dots and rings that are shown, as [item, x, y] on the screen.
  shown() {
    const { toScreen } = this.projection();
    const clips = this.clips.filter((clip) => !this.hidden.has(clip.label));
    const sounds = this.sounds.filter((sound) => sound.place);
    return [...clips, ...sounds].map((item) => [item, ...toScreen(this.place(item))]);
  }

  nearest([x, y], reach = REACH) {
    let best = null;
    let least = reach;
    for (const [item, at, up] of this.shown()) {
      const distance = Math.hypot(at - x, up - y);
      if (distance <= least) [best, least] = [item, distance];
    }
    return best;
  }

  // The nearest item in the direction of an arrow key, within 45 degrees of it where there is one.
  neighbour(dx, dy) {
    const items = this.shown();
    const from = items.find(([item]) => item === this.selected);
    if (!from) return items.length ? items[0][0] : null;
    let best = null;
    let least = Infinity;
    for (const [item, x, y] of items) {
      const along = (x - from[1]) * dx + (y - from[2]) * dy;
      const across = Math.abs((x - from[1]) * dy) + Math.abs((y - from[2]) * dx);
      const cost = along + 2 * across + (across > along ? 1e6 : 0);
      if (item !== from[0] && along > 0 && cost < least) [best, least] = [item, cost];
    }
    return best || from[0];
  }

  place(item) {
    return item.place || [item.x, item.y];
  }

  // Adds a corner where the pointer has moved on far enough.
  trace(at) {
    const last = this.path.length ? this.toScreen(this.path[this.path.length - 1]) : null;
    if (last && Math.hypot(last[0] - at[0], last[1] - at[1]) < STEP) return;
    this.path.push(this.toPlane(at));
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const sharp = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    canvas.width = Math.round(width * sharp);
    canvas.height = Math.round(height * sharp);
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const dark = isDark();
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    const magnified = Math.min(2, Math.sqrt(Math.max(1, this.zoom)));
    const radius = Math.max(2, Math.min(5.5, (70 * magnified) / Math.sqrt(this.clips.length)));
    const ink = style.color;
    for (const [item, x, y] of this.shown()) {
      if (item.place) continue;
      pen.fillStyle = colour(item.label, dark);
      pen.globalAlpha = 0.85;
      disc(pen, x, y, radius);
    }
    pen.globalAlpha = 1;
    this.drawSounds(pen, ink, style.backgroundColor);
    // The canvas is given the resolved colours of the page: its ink, its paper, and two for what is drawn over dots.
    this.drawPath(pen, style.accentColor);
    this.drawWaypoints(pen, style);
    for (const item of [this.pointed, this.selected]) {
      if (!item || item.place === null) continue;
      const [x, y] = this.toScreen(this.place(item));
      pen.strokeStyle = ink;
      pen.lineWidth = item === this.selected ? 2.2 : 1.2;
      circle(pen, x, y, radius + 4);
    }
  }

  drawSounds(pen, ink, paper) {
    pen.font = "600 10px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const sound of this.sounds) {
      if (!sound.place) continue;
      const [x, y] = this.toScreen(sound.place);
      pen.fillStyle = paper;
      disc(pen, x, y, 8);
      pen.strokeStyle = ink;
      pen.lineWidth = 1.2;
      circle(pen, x, y, 8);
      pen.fillStyle = ink;
      pen.fillText(String(sound.number), x, y + 0.5);
    }
  }

  drawPath(pen, accent) {
    const points = this.path.map((point) => this.toScreen(point));
    if (!points.length) return;
    pen.strokeStyle = accent;
    pen.fillStyle = accent;
    pen.lineWidth = 2.5;
    pen.lineJoin = pen.lineCap = "round";
    pen.beginPath();
    points.forEach(([x, y]) => pen.lineTo(x, y));
    pen.stroke();
    disc(pen, ...points[0], 5);
    circle(pen, ...points[points.length - 1], 5);
  }

  drawWaypoints(pen, style) {
    const points = this.waypoints.map((item) => this.toScreen(this.place(item)));
    pen.strokeStyle = style.caretColor;
    pen.lineWidth = 1.5;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    points.forEach(([x, y]) => pen.lineTo(x, y));
    pen.stroke();
    pen.setLineDash([]);
    points.forEach(([x, y], k) => {
      pen.fillStyle = style.caretColor;
      disc(pen, x, y, 9);
      pen.fillStyle = style.backgroundColor;
      pen.fillText(String(k + 1), x, y + 0.5);
    });
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
}

// Left, bottom, right and top of some points, with room where they are all the same.
function limits(points) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, right] = [xs.reduce((a, b) => Math.min(a, b)), xs.reduce((a, b) => Math.max(a, b))];
  const [bottom, top] = [ys.reduce((a, b) => Math.min(a, b)), ys.reduce((a, b) => Math.max(a, b))];
  const room = Math.max(right - left, top - bottom, 1e-6) * 0.02;
  return [left - room, bottom - room, right + room, top + room];
}

function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function circle(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.stroke();
}
