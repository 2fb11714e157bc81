// What is heard. The audio context runs at the run's own rate, so that pieces of a growing sound join without a seam.
const LEAD = 0.02;
const FADE = 0.012;
const MOST_BUFFERS = 96;

let context = null;
let rate = 44100;
let sources = [];
let output = null;
let ended = () => {};
const buffers = new Map();

export function setRate(hertz) {
  rate = hertz;
}

// A browser lets a page sound only after the user has pressed something.
export function wake() {
  if (!context) {
    try {
      context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    } catch {
      context = new AudioContext({ latencyHint: "interactive" });
    }
  }
  if (context.state === "suspended") return context.resume();
  return Promise.resolve();
}

export const awake = () => context !== null && context.state === "running";

function silence() {
  if (output) {
    const last = output;
    last.gain.setTargetAtTime(0, context.currentTime, FADE / 3);
    const old = sources;
    setTimeout(() => {
      old.forEach((source) => source.stop());
      last.disconnect();
    }, 60);
  }
  sources = [];
  output = null;
}

export function stop() {
  silence();
  ended();
  ended = () => {};
}

// Ends what sounds; what follows goes to a new output. `whenEnded` is called when that is over.
function begin(whenEnded) {
  stop();
  ended = whenEnded;
  output = context.createGain();
  output.connect(context.destination);
}

function start(buffer, at, to = output) {
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(to);
  source.start(at);
  sources.push(source);
  return source;
}

// Milliseconds from `since` until the sound that starts at `at` leaves the computer.
function delay(since, at) {
  const wait = at - context.currentTime + (context.outputLatency || context.baseLatency || 0);
  return Math.round(performance.now() - since + 1000 * wait);
}

export function hold(id, buffer) {
  buffers.delete(id);
  buffers.set(id, buffer);
  if (buffers.size > MOST_BUFFERS) buffers.delete(buffers.keys().next().value);
}

export async function load(id, bytes) {
  if (!buffers.has(id)) {
    const content = await bytes();
    await wake();
    hold(id, await context.decodeAudioData(content));
  }
  return buffers.get(id);
}

export function play(buffer, since, whenEnded = () => {}) {
  begin(whenEnded);
  const own = output;
  const at = context.currentTime;
  start(buffer, at).onended = () => own === output && stop();
  return delay(since, at);
}

// A sound that grows: `push` takes its samples, `finish` says that there are no more.
export function growing(since, whenEnded = () => {}) {
  begin(whenEnded);
  const own = output;
  let next = 0;
  let last = null;
  let first = null;
  return {
    push(samples) {
      if (own !== output || !samples.length) return first;
      const buffer = context.createBuffer(1, samples.length, rate);
      buffer.copyToChannel(samples, 0);
      const at = Math.max(next, context.currentTime + LEAD);
      if (first === null) first = delay(since, at);
      last = start(buffer, at);
      next = at + buffer.duration;
      return first;
    },
    finish() {
      if (own !== output) return;
      if (last && next > context.currentTime) last.onended = () => own === output && stop();
      else stop();
    },
  };
}

// Two sounds in step, of which one is heard; returns what switches to the other.
export function compare(a, b, whenEnded) {
  begin(whenEnded);
  const at = context.currentTime + LEAD;
  const length = Math.max(a.duration, b.duration);
  const gains = [a, b].map((buffer, k) => {
    const gain = context.createGain();
    gain.gain.value = k ? 0 : 1;
    gain.connect(output);
    const padded = context.createBuffer(1, Math.ceil(length * context.sampleRate), context.sampleRate);
    padded.copyToChannel(buffer.getChannelData(0), 0);
    const source = start(padded, at, gain);
    source.loop = true;
    return gain.gain;
  });
  return (heard) =>
    gains.forEach((gain, k) => gain.setTargetAtTime(k === heard ? 1 : 0, context.currentTime, FADE / 3));
}

export const playing = () => sources.length > 0;
