"use strict";
(() => {
  const root = document.documentElement, theme = document.getElementById("theme");
  const kept = () => { try { return localStorage.getItem("ffdist-theme"); } catch { return null; } };
  if (["dark", "light"].includes(kept())) root.dataset.theme = kept();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("ffdist-theme", root.dataset.theme); } catch { /* for this page alone */ }
  });

  const unfolded = new Set();
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("main > section > details:not([open])")) { unfolded.add(each); each.open = true; }
  });
  addEventListener("afterprint", () => { for (const each of unfolded) each.open = false; unfolded.clear(); });

  const main = document.getElementById("content"), place = main.dataset.live;
  if (!place) return;
  const news = document.getElementById("news"), pause = document.getElementById("pause");
  let paused = false, tag = "";
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    look();
  });
  const tell = (text) => { if (news.textContent !== text) news.textContent = text; };
  const show = (text) => {
    const open = new Map([...main.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
    const across = [...main.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    const reached = "a, summary, .scroll", at = [...main.querySelectorAll(reached)].indexOf(document.activeElement);
    const top = scrollY;
    main.innerHTML = text;
    for (const each of main.querySelectorAll("details[id]")) if (open.has(each.id)) each.open = open.get(each.id);
    main.querySelectorAll(".scroll").forEach((each, i) => { each.scrollLeft = across[i] || 0; });
    if (at >= 0) main.querySelectorAll(reached)[at]?.focus({ preventScroll: true });
    scrollTo(scrollX, top);
  };
  const look = async () => {
    if (paused || document.hidden) return;
    try {
      const answer = await fetch(place, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) { tag = answer.headers.get("ETag") || ""; show(await answer.text()); }
      tell(answer.status === 404 ? "The run is not there any more." : "");
    } catch {
      tell("ffdist watch does not answer.");
    }
  };
  setInterval(look, 2000);
  document.addEventListener("visibilitychange", look);
})();
