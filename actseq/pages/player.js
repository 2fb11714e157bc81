// Players of sounds, and the button for light and dark. A page that adds players later calls actseqPlayers.enhance.
"use strict";
const actseqPlayers = (() => {
  let playing = null;

  function clock(seconds) {
    if (seconds < 60) return seconds.toFixed(2) + " s";
    return Math.floor(seconds / 60) + ":" + String(Math.floor(seconds % 60)).padStart(2, "0");
  }

  // Replaces the browser's controls by a button, a time, and a slider over the picture.
  function player(figure) {
    const audio = figure.querySelector("audio");
    if (!audio || figure.dataset.ready) return;
    figure.dataset.ready = "yes";
    const name = audio.getAttribute("aria-label") || "sound";
    const length = () => (Number.isFinite(audio.duration) ? audio.duration : Number(audio.dataset.seconds) || 0);

    const button = document.createElement("button");
    button.type = "button";
    button.className = "play";
    const time = document.createElement("span");
    time.className = "time";
    const slider = document.createElement("input");
    slider.type = "range";
    Object.assign(slider, { min: 0, max: 1000, step: 20, value: 0, className: "position" });
    slider.setAttribute("aria-label", "Position in " + name);

    const controls = document.createElement("div");
    controls.className = "controls";
    controls.append(button, time);
    audio.before(controls);
    audio.controls = false;
    figure.querySelector(".view").append(slider);

    function show() {
      const share = length() ? audio.currentTime / length() : 0;
      const on = !audio.paused;
      slider.value = Math.round(1000 * share);
      slider.setAttribute("aria-valuetext", clock(audio.currentTime));
      time.textContent = on || share ? clock(audio.currentTime) + " / " + clock(length()) : clock(length());
      button.textContent = on ? "❚❚" : "▶";
      button.setAttribute("aria-label", (on ? "Pause " : "Play ") + name);
      figure.classList.toggle("playing", on);
      figure.classList.toggle("begun", share > 0);
    }

    function follow() {
      show();
      if (!audio.paused) requestAnimationFrame(follow);
    }

    function play() {
      if (playing && playing !== audio) playing.pause();
      playing = audio;
      audio.play().catch(() => {
        time.textContent = "this browser cannot play it";
      });
    }

    function seek(share) {
      audio.currentTime = share * length();
      show();
    }

    button.addEventListener("click", () => (audio.paused ? play() : audio.pause()));
    slider.addEventListener("input", () => seek(slider.value / 1000));
    slider.addEventListener("click", () => audio.paused && play());
    slider.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      if (audio.paused) play();
      else audio.pause();
    });
    audio.addEventListener("play", follow);
    audio.addEventListener("pause", show);
    audio.addEventListener("ended", () => seek(0));
    show();
  }

  function enhance(root) {
    root.querySelectorAll(".player").forEach(player);
  }

  // The choice is remembered where the browser allows it, which it may not for a file.
  function remembered(value) {
    try {
      if (value) localStorage.setItem("actseq-theme", value);
      return localStorage.getItem("actseq-theme");
    } catch {
      return null;
    }
  }

  function theme() {
    const page = document.documentElement;
    const button = document.querySelector("[data-theme-button]");
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const shown = () => page.dataset.theme || (dark.matches ? "dark" : "light");
    const name = () => {
      button.textContent = shown() === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", "Show the page " + (shown() === "dark" ? "light" : "dark"));
    };
    if (["light", "dark"].includes(remembered())) page.dataset.theme = remembered();
    if (!button) return;
    button.hidden = false;
    button.addEventListener("click", () => {
      page.dataset.theme = shown() === "dark" ? "light" : "dark";
      remembered(page.dataset.theme);
      name();
    });
    dark.addEventListener("change", name);
    name();
  }

  theme();
  enhance(document);
  return { enhance };
})();
