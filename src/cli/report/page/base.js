// The data, and what all views draw with. Every text goes through `h`, as text: no name can become markup.
'use strict';

const data = JSON.parse(document.getElementById('data').textContent);
const view = document.getElementById('view');
const live = document.getElementById('live');
const views = {};

// What could turn the direction of writing, or is no text.
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
const show = (text) => String(text).replace(UNPRINTABLE, '\ufffd');

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : show(child));
  }
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    // By the object model: a style attribute is one that the page's policy refuses.
    else if (name === 'style') for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? '' : show(value));
  }
  return element;
}

const h = (tag, attributes, ...children) => add(set(document.createElement(tag), attributes), children);
const svg = (tag, attributes, ...children) =>
  add(set(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes), children);

// Bytes in powers of ten, rounded as windlass rounds them.
function size(bytes) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let divisor = 1;
  while (Math.floor(bytes / divisor) >= 1000 && unit + 1 < units.length) {
    divisor *= 1000;
    unit += 1;
  }
  if (unit === 0) return `${bytes}\u00a0B`;
  const tenths = Math.floor((bytes * 10 + divisor / 2) / divisor);
  return `${Math.floor(tenths / 10)}.${tenths % 10}\u00a0${units[unit]}`;
}

const count = (number, noun) => `${number}\u00a0${noun}${number === 1 ? '' : 's'}`;
const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);
const percent = (part, whole) => (whole > 0 ? `${Math.round((part / whole) * 1000) / 10}\u00a0%` : '');
const by = (key) => (a, b) => key(b) - key(a);

const link = (...parts) => `#${parts.map(encodeURIComponent).join('/')}`;
const go = (...parts) => { location.hash = link(...parts); };
// What an image is called in links: several platforms share a name.
const twice = new Set();
{
  const seen = new Set();
  for (const { name } of data.images) (seen.has(name) ? twice : seen).add(name);
}
const key = (image) => (twice.has(image.name) ? `${image.name}@${image.platform}` : image.name);
const short = (digest) => digest.slice(7, 19);

// Numbers in their order: each is what it is more than the one before, five bits a character, the lowest first.
function numbers(text = '') {
  const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const list = [];
  let [last, more, shift] = [0, 0, 0];
  for (const character of text) {
    const digit = digits.indexOf(character);
    more += (digit % 32) << shift;
    shift += 5;
    if (digit < 32) {
      last += more;
      list.push(last);
      [more, shift] = [0, 0];
    }
  }
  return list;
}

// Store paths: [base name, what it refers to, its own bytes, those of its closure, what would not be there without it].
const paths = data.paths.map(([base, references, own, closure = own, added = own], index) => ({
  index, base, name: base.slice(33), own, closure, added, references: numbers(references), referrers: [], layers: [], images: new Set(),
}));
for (const path of paths) for (const to of path.references) paths[to].referrers.push(path.index);
const layers = data.layers.map((layer, index) => ({ ...layer, index, paths: numbers(layer.paths), moved: numbers(layer.moved), images: [] }));
for (const layer of layers) for (const path of [...layer.paths, ...layer.moved]) paths[path].layers.push(layer.index);
const images = data.images.map((image, index) => ({ ...image, index, roots: numbers(image.roots) }));
for (const image of images) {
  for (const layer of image.layers) {
    layers[layer].images.push(image.index);
    for (const path of [...layers[layer].paths, ...layers[layer].moved]) paths[path].images.add(image.index);
  }
}
// A model has an image of its own, which others do not run.
const running = images.filter((image) => !image.isModel);
const shown = running.length ? running : images;
for (const layer of layers) layer.users = layer.images.filter((image) => shown.includes(images[image]));

const KINDS = {
  model: 'Model', base: 'Base image', shared: 'Store paths of several images', own: 'Store paths of one image', root: 'Links and settings',
};
const kindOf = (layer) => (layer.kind !== 'closure' ? layer.kind : layer.users.length > 1 ? 'shared' : 'own');
const layerName = (layer) => layer.title || short(layer.digest);

// A table whose columns can be sorted: [title, text or node of a row, number or text to sort by].
function table(caption, columns, rows, { sorted = null, limit = 100, label = null } = {}) {
  let order = sorted;
  let all = false;
  const body = h('tbody');
  const more = h('button', { class: 'more', type: 'button', onclick: () => { all = true; fill(); } });
  const heads = columns.map(([title, , by], n) => {
    const isNumber = columns[n][3] === 'num';
    if (!by) return h('th', { scope: 'col', class: isNumber ? 'num' : null }, title);
    const turn = () => {
      order = order && order[0] === n ? [n, !order[1]] : [n, isNumber];
      fill();
    };
    return h('th', { scope: 'col', class: isNumber ? 'num' : null }, h('button', { type: 'button', onclick: turn }, title, h('span', { class: 'turn', 'aria-hidden': 'true' })));
  });
  function fill() {
    const list = [...rows];
    if (order) {
      const [n, down] = order;
      const of = columns[n][2];
      const compare = (a, b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0);
      list.sort((a, b) => (down ? compare(b, a) : compare(a, b)));
    }
    heads.forEach((head, n) => {
      if (order && order[0] === n) head.setAttribute('aria-sort', order[1] ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    const some = all ? list : list.slice(0, limit);
    body.replaceChildren(...some.map((row) => h('tr', null, columns.map(([, cell, , kind], n) =>
      h(n === 0 ? 'th' : 'td', { scope: n === 0 ? 'row' : null, class: kind || null }, cell(row))))));
    more.hidden = some.length === list.length;
    more.textContent = `Show all ${list.length}`;
  }
  fill();
  return h('div', { class: 'table', role: 'region', 'aria-label': label || caption, tabindex: '0' },
    h('table', null, h('caption', null, caption), h('thead', null, h('tr', null, heads)), body), more);
}

// A bar that is `part` of `whole` long, with its number beside it.
const bar = (part, whole, kind) => h('span', { class: 'bar', 'aria-hidden': 'true' },
  h('span', { class: `fill ${kind || ''}`, style: { width: `${whole > 0 ? Math.max(0.5, (part / whole) * 100) : 0}%` } }));

const tile = (number, words, more) => h('div', { class: 'fact' }, h('strong', null, number), h('span', null, words), more ? h('small', null, more) : null);
const pathLink = (path) => h('a', { class: 'name', href: link('why', path.base), title: `${data.store}/${path.base}` }, path.name);
const imageLink = (image) => h('a', { class: 'chip', href: link('files', 'image', key(image)) }, key(image));

// Says something to who hears the page.
const say = (text) => { live.textContent = show(text); };
