'use strict';
// The owner's viewer: which boxes are shown, and the way from picture to picture.
const controls = document.querySelector('.view-controls');
if (controls) {
  const slider = controls.querySelector('input');
  const boxes = document.querySelector('.view-classes');
  const marks = [...document.querySelectorAll('[data-score]')];
  const figures = [...document.querySelectorAll('.view-figures figure')];
  const update = () => {
    const off = new Set();
    if (boxes) for (const box of boxes.querySelectorAll('input:not(:checked)')) off.add(box.value);
    for (const mark of marks) {
      mark.classList.toggle('low', mark.dataset.score < Number(slider.value) || off.has(mark.dataset.class));
    }
    for (const [value, what] of [['truth', '.truth'], ['labels', '.view-label']]) {
      for (const node of document.querySelectorAll(what)) node.classList.toggle('view-hide', off.has(value));
    }
    let sum = 0;
    for (const figure of figures) {
      // Those that have a picture and those that have none count alike.
      const shown = figure.querySelectorAll('tr[data-score]:not(.low)').length;
      figure.querySelector('[data-count]').textContent = shown;
      sum += shown;
    }
    document.querySelector('.view-count [data-count]').textContent = sum;
    // On paper nothing else says which classes are left out.
    const without = boxes ? [...boxes.querySelectorAll('[data-name]:not(:checked)')] : [];
    document.querySelector('[data-without]').textContent =
      without.length ? `, without the classes ${without.map((box) => box.dataset.name).join(', ')}` : '';
    for (const text of document.querySelectorAll('[data-threshold], .view-controls output')) {
      text.textContent = Number(slider.value).toFixed(2);
    }
  };
  let at = -1;
  const go = (by) => {
    const top = controls.getBoundingClientRect().bottom;
    const place = figures.map((figure) => figure.getBoundingClientRect());
    // From what was gone to, or from what is seen where the page was scrolled since.
    if (at < 0 || place[at].bottom < top || place[at].top > innerHeight) {
      at = place.findIndex((box) => box.bottom > top) - (by > 0 ? 1 : 0);
    }
    at = Math.max(0, Math.min(figures.length - 1, at + by));
    figures.forEach((figure, i) => figure.setAttribute('aria-current', i === at));
    controls.querySelector('.view-at').textContent =
      `${at + 1} of ${figures.length}: ${figures[at].querySelector('h2').textContent}`;
    // Last, as the name may make the bar higher.
    scrollTo(0, scrollY + figures[at].getBoundingClientRect().top - controls.offsetHeight - 8);
  };
  for (const button of controls.querySelectorAll('[data-go]')) {
    button.addEventListener('click', () => go(Number(button.dataset.go)));
    button.disabled = !figures.length;
  }
  document.addEventListener('keydown', (event) => {
    // Letters mean something only beside the buttons and the pictures.
    if (!figures.length || event.ctrlKey || event.altKey || event.metaKey) return;
    if (!event.target.closest('.view-controls, .view-figures')) return;
    if (event.key === 'j' || event.key === 'k') go(event.key === 'j' ? 1 : -1);
  });
  slider.addEventListener('input', update);
  if (boxes) {
    boxes.addEventListener('change', update);
    for (const button of boxes.querySelectorAll('[data-all]')) {
      button.addEventListener('click', () => {
        for (const box of boxes.querySelectorAll('[data-name]')) box.checked = Boolean(button.dataset.all);
        update();
      });
    }
  }
  for (const part of [controls, boxes]) if (part) part.hidden = false;
  update();
}
