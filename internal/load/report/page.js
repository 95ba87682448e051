"use strict";
// Shows the values of a plot under the pointer, or at the place that arrow keys move.
(() => {
  const number = (v) => v.toLocaleString("en", Math.abs(v) >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 });
  const place = {
    time(x) {
      if (Math.abs(x) < 60) return number(Math.round(x * 1000) / 1000) + "s";
      const s = Math.round(x), h = Math.trunc(s / 3600), m = Math.trunc(s / 60) % 60;
      return (h ? h + "h" : "") + m + "m" + (s % 60) + "s";
    },
    percent(x, x1) {
      return x >= x1 ? "largest" : "p" + +(100 - 100 * Math.pow(10, -x)).toPrecision(7);
    },
  };
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const mid = (low + high) >> 1;
      if (points[mid][0] < x) low = mid; else high = mid;
    }
    return x - points[low][0] < points[high][0] - x ? low : high;
  };
  const add = (parent, tag, text) => {
    const e = parent.appendChild(document.createElement(tag));
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const plots = [...document.querySelectorAll(".plot")].map((box) => ({
    box,
    area: box.querySelector(".area"),
    cursor: box.querySelector(".cursor"),
    data: JSON.parse(box.querySelector("script").textContent),
  }));
  // Plots over time have the same axis, so all show where one is looked at.
  const mark = (kind, x) => {
    for (const p of plots) {
      if (p.data.kind !== kind) continue;
      const at = 100 * (x - p.data.x0) / (p.data.x1 - p.data.x0) + "%";
      p.cursor.setAttribute("x1", at);
      p.cursor.setAttribute("x2", at);
      p.cursor.style.visibility = x === null ? "hidden" : "visible";
    }
  };
  let active; // hides what is shown
  for (const p of plots) {
    const { kind, unit, x0, x1, lines } = p.data;
    const tip = add(p.box, "div");
    tip.className = "tip";
    tip.setAttribute("role", "status");
    tip.hidden = true;
    let at = null;
    const hide = () => {
      if (at === null) return;
      at = null;
      tip.hidden = true;
      mark(kind, null);
    };
    const show = (want) => {
      if (active !== hide) active?.();
      active = hide;
      // The place is that of the nearest point of any line.
      at = null;
      for (const l of lines) {
        const x = l.points[nearest(l.points, want)][0];
        if (at === null || Math.abs(x - want) < Math.abs(at - want)) at = x;
      }
      tip.replaceChildren();
      add(tip, "b", place[kind](at, x1));
      if (unit) add(tip, "i", ", " + unit);
      for (const l of lines) {
        const [x, v] = l.points[nearest(l.points, at)];
        const row = add(tip, "div");
        add(row, "span", l.name).className = "c" + l.color;
        add(row, "b", Math.abs(x - at) > l.gap ? "–" : number(v));
      }
      tip.hidden = false;
      mark(kind, at);
      const r = p.area.getBoundingClientRect(), b = p.box.getBoundingClientRect();
      const x = r.left - b.left + r.width * (at - x0) / (x1 - x0), w = tip.offsetWidth;
      const left = x + 12 + w <= b.width ? x + 12 : x - 12 - w;
      tip.style.left = Math.max(0, Math.min(left, b.width - w)) + "px";
    };
    const point = (e) => {
      const r = p.area.getBoundingClientRect();
      show(x0 + Math.max(0, Math.min(1, (e.clientX - r.left) / r.width)) * (x1 - x0));
    };
    p.box.addEventListener("pointermove", point);
    p.box.addEventListener("pointerdown", point);
    p.box.addEventListener("pointerleave", (e) => {
      if (e.pointerType === "mouse") hide(); // a finger leaves when it is lifted
    });
    p.box.addEventListener("blur", hide);
    p.box.addEventListener("keydown", (e) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
      if (e.key === "Escape") hide();
      if (!step) return;
      e.preventDefault();
      if (at === null) return show(step > 0 ? x0 : x1);
      // The next point of any line, but not so near that the cursor stands still.
      const least = (x1 - x0) / 200;
      let next = at + step * (x1 - x0);
      for (const l of lines) {
        for (const [x] of l.points) {
          if (step * (x - at) >= least && step * (x - next) < 0) next = x;
        }
      }
      show(Math.max(x0, Math.min(next, x1)));
    });
  }
})();
