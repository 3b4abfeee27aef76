// Copyright (c) hime_mm contributors. Licensed under Apache-2.0.
// What is asked of a page in the browser: each gives a list of what is wrong, in words.
const name = (node) => {
  const id = node.id ? `#${node.id}` : '';
  const kind = node.getAttribute('class');
  return `<${node.tagName.toLowerCase()}${id}${kind ? `.${kind}` : ''}> ${(node.textContent || '').trim().slice(0, 40)}`;
};
const seen = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const all = () => [...document.body.querySelectorAll('*')].filter(seen);

// Nothing sticks out of the window or of its own box, but in what scrolls (".wide").
const overflowing = () => {
  const wide = document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth;
  const found = wide > 0 ? [`the page is ${wide} px wider than the window`] : [];
  const edge = document.documentElement.clientWidth;
  for (const node of all()) {
    if (node.closest('.wide') && !node.matches('.wide')) continue;
    const box = node.getBoundingClientRect();
    if (box.width && (box.left < -1 || box.right > edge + 1)) {
      found.push(`${name(node)} lies from ${box.left} to ${box.right} of ${edge} px`);
    }
    const style = getComputedStyle(node);
    const inner = node instanceof HTMLElement && !['inline', 'contents'].includes(style.display);
    if (inner && !node.matches('.wide') && node.scrollWidth > node.clientWidth + 1 && node.clientWidth) {
      found.push(`${name(node)} holds ${node.scrollWidth} px in ${node.clientWidth}`);
    }
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll('text')) {
      const box = text.getBoundingClientRect();
      const out = box.left < frame.left - 1 || box.right > frame.right + 1
        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
      if (seen(text) && out) found.push(`${name(text)} sticks out of its chart`);
    }
  }
  return found;
};

const missing = () => [...document.images]
  .filter((img) => !img.complete || !img.naturalWidth)
  .map((img) => `${img.alt} is not shown`);

const rgba = (text) => {
  const canvas = rgba.canvas ||= Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = text;
  pen.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below, share = 1) => [0, 1, 2]
  .map((i) => top[i] * top[3] * share + below[i] * (1 - top[3] * share)).concat(1);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const contrast = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((one, two) => two - one);
  return (x + 0.05) / (y + 0.05);
};
// What lies behind a text: backgrounds of what it is in; of a chart the shape below its middle.
const behind = (node) => {
  const chain = [];
  for (let at = node; at; at = at.parentElement) chain.unshift(at);
  let color = rgba(matchMedia('(prefers-color-scheme: dark)').matches && !matchMedia('print').matches
    ? '#121212' : '#fff');
  for (const at of chain) color = over(rgba(getComputedStyle(at).backgroundColor), color);
  if (node instanceof SVGElement) {
    node.scrollIntoView({ block: 'center' });
    const box = node.getBoundingClientRect();
    const below = document.elementsFromPoint(box.left + box.width / 2, box.top + box.height / 2)
      .filter((at) => at instanceof SVGGeometryElement && !(at instanceof SVGLineElement))
      .filter((at) => node.ownerSVGElement.contains(at));
    for (const at of below.reverse()) {
      const style = getComputedStyle(at);
      if (!['none', ''].includes(style.fill) && !style.fill.startsWith('url')) {
        color = over(rgba(style.fill), color, style.opacity * style.fillOpacity);
      }
    }
  }
  return color;
};
// Texts whose contrast is less than WCAG 2.2 asks for at level AA.
const faint = () => {
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(node)) continue;
    if (node.matches('script, style, title, desc')) continue;
    const style = getComputedStyle(node);
    let share = 1;
    for (let at = node; at; at = at.parentElement) share *= getComputedStyle(at).opacity;
    const ground = behind(node);
    const color = over(rgba(node instanceof SVGElement ? style.fill : style.color), ground, share);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const got = contrast(color, ground);
    if (got < (large ? 3 : 4.5)) found.add(`${name(node)}: contrast ${got.toFixed(2)}`);
  }
  return [...found];
};

// What the policy of a page forbids in it, and what names nothing.
const markup = () => {
  const found = [...document.querySelectorAll('[style]')].map((node) => `${name(node)} has a style of its own`);
  for (const node of document.querySelectorAll('*')) {
    for (const { name: key } of node.attributes) {
      if (key.startsWith('on')) found.push(`${name(node)} has ${key}`);
    }
  }
  for (const img of document.images) if (!img.hasAttribute('alt')) found.push('a picture without `alt`');
  for (const svg of document.querySelectorAll('svg')) {
    if (!svg.hasAttribute('aria-label') && !svg.querySelector('title') && svg.ariaHidden !== 'true') {
      found.push(`${name(svg)} has no name`);
    }
  }
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  ids.forEach((id, i) => { if (ids.indexOf(id) < i) found.push(`two have the id ${id}`); });
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    if (!document.getElementById(decodeURIComponent(link.hash.slice(1)))) found.push(`${link.hash} is nowhere`);
  }
  return found;
};

// Whether rows stand in the order that a head says: what is empty last.
const unsorted = (table) => {
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.hasAttribute('aria-sort'));
  if (column < 0) return ['no column says that it is sorted'];
  const way = heads[column].getAttribute('aria-sort') === 'ascending' ? 1 : -1;
  const values = [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  });
  const full = values.filter((value) => value !== '');
  const found = values.slice(0, full.length).includes('') ? ['what is empty is not last'] : [];
  full.slice(1).forEach((value, i) => {
    const [x, y] = [full[i], value];
    const by = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    if (by * way > 0) found.push(`${x} stands before ${y}`);
  });
  return found;
};
