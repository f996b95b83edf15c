"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const enough = matchMedia("(min-width: 1100px)");
  // `ast` evaluates expressions without eval, which the page's policy forbids.
  const tooltip = { disableDefaultStyle: true };
  const options = { actions: false, renderer: "svg", ast: true, defaultStyle: false, tooltip };

  async function draw() {
    const size = enough.matches ? "wide" : "narrow";
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      try {
        await vegaEmbed(figure, charts[figure.dataset.chart][size], options);
      } catch (error) {
        figure.innerHTML = '<p class="failed">This chart could not be drawn.</p>';
        console.error(error);
      }
    }
    document.documentElement.dataset.drawn = size;
  }

  function tabs(group) {
    const buttons = [...group.querySelectorAll(":scope > [role=tablist] > [role=tab]")];
    const panels = [...group.querySelectorAll(":scope > [role=tabpanel]")];
    const select = (chosen) => {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-selected", i === chosen);
        button.tabIndex = i === chosen ? 0 : -1;
        panels[i].hidden = i !== chosen;
      });
    };
    buttons.forEach((button, i) => {
      button.addEventListener("click", () => select(i));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = (i + step + buttons.length) % buttons.length;
        select(next);
        buttons[next].focus();
      });
    });
    group.classList.add("live");
    select(0);
  }

  document.querySelectorAll(".tabs").forEach(tabs);
  draw();
  enough.addEventListener("change", draw);
})();
