// Makes pages that are whole without it nicer: ages that grow, `/` for search, a word on the stream.
(() => {
  "use strict";
  const sizes = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

  function age(time) {
    const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
    const [unit, size] = sizes.find(([, size]) => seconds >= size) || ["s", 1];
    return `${Math.floor(seconds / size)}${unit} ago`;
  }

  function grow() {
    for (const element of document.querySelectorAll("main time")) {
      const text = age(element.dateTime);
      if (element.textContent !== text) element.textContent = text;
    }
  }

  function say(text) {
    const state = document.getElementById("state");
    if (state && state.textContent !== text) state.textContent = text;
  }

  // A log that is read at its end stays there; one that somebody has scrolled back is left alone.
  let isAtEnd = true;
  function follow() {
    const log = document.querySelector("[data-follow]");
    if (log && isAtEnd) log.scrollTop = log.scrollHeight;
  }
  document.addEventListener("scroll", (event) => {
    const log = event.target;
    if (log.matches?.("[data-follow]")) isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  }, true);

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      document.getElementById("search")?.focus();
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches(".filters select")) event.target.form.requestSubmit();
  });
  document.addEventListener("htmx:sse:after:connection", () => say("Live"));
  document.addEventListener("htmx:sse:error", () => say("Connection lost; reconnecting"));
  document.addEventListener("htmx:after:swap", () => { grow(); follow(); });
  document.addEventListener("DOMContentLoaded", () => { grow(); follow(); });
  setInterval(grow, 10000);
})();
