// Why a store path is there: the shortest way along references from what an image asks for, and who refers to it.
'use strict';

// The shortest way from one of these to a store path; of several the first, as windlass itself finds it.
function chain(starts, target) {
  const order = (list) => [...list].sort((a, b) => (paths[a].base < paths[b].base ? -1 : 1));
  const from = new Map();
  const pending = order(starts);
  pending.forEach((start) => from.set(start, null));
  for (let at = 0; at < pending.length; at += 1) {
    const now = pending[at];
    if (now === target) {
      const way = [now];
      while (from.get(way[0]) !== null) way.unshift(from.get(way[0]));
      return way;
    }
    for (const next of order(paths[now].references)) {
      if (!from.has(next)) { from.set(next, now); pending.push(next); }
    }
  }
  return null;
}

const SIZES = 'Own: the store path alone. Closure: with all that it needs. Added: what would not be here without it.';
const known = (bytes) => (bytes === null || bytes === undefined ? 'not known' : size(bytes));

const sizesOf = [
  ['Own', (path) => known(path.own), (path) => path.own || 0, 'num'],
  ['Closure', (path) => known(path.closure), (path) => path.closure || 0, 'num'],
  ['Added', (path) => known(path.added), (path) => path.added || 0, 'num'],
];

function allPaths() {
  const largest = Math.max(...paths.map((path) => path.closure || path.own || 0), 1);
  return [h('div', { class: 'head' }, h('h2', { tabindex: '-1' }, 'Why is this here?')),
    h('p', { class: 'muted' }, 'Choose a store path, or search for one. ', SIZES),
    table(count(paths.length, 'store path'), [
      ['Store path', pathLink, (path) => path.name], ...sizesOf,
      ['Images', (path) => path.images.size, (path) => path.images.size, 'num'],
      ['Referrers', (path) => path.referrers.length, (path) => path.referrers.length, 'num'],
      ['', (path) => bar(path.closure || path.own, largest), null, 'bars'],
    ], paths, { sorted: [1, true], limit: 50 })];
}

views.why = (parts) => {
  const path = paths.find((one) => one.base === parts[0]);
  if (!path) return allPaths();
  const having = images.filter((image) => path.images.has(image.index));
  const image = having.find((one) => key(one) === parts[1]) || having.find((one) => !one.isModel) || having[0];
  const way = image ? chain(image.roots, path.index) : null;
  const choice = h('label', null, h('span', null, 'In image'), h('select', { onchange: (event) => go('why', path.base, event.target.value) },
    having.map((one) => h('option', { value: key(one), selected: one === image }, key(one)))));
  const step = (n, at) => h('li', null, n === path.index
    ? h('strong', { class: 'name', 'aria-current': 'true' }, paths[n].name)
    : h('a', { class: 'name', href: link('why', paths[n].base, key(image)) }, paths[n].name),
  h('span', { class: 'num' }, known(paths[n].own)), at === 0 ? h('span', { class: 'muted' }, `asked for by ${key(image)}`) : null);
  const list = (title, numbers) => table(title, [['Store path', pathLink, (one) => one.name], ...sizesOf], numbers.map((n) => paths[n]), { sorted: [1, true], limit: 30 });
  const itsLayers = path.layers.map((n) => layers[n]).filter((layer) => !image || layer.images.includes(image.index));
  return [h('div', { class: 'head' }, h('h2', { tabindex: '-1' }, h('span', { class: 'quiet' }, 'Why is '), h('span', { class: 'name' }, path.name), h('span', { class: 'quiet' }, ' here?')), having.length ? choice : null),
    h('p', { class: 'digest' }, h('code', null, `${data.store}/${path.base}`)),
    h('div', { class: 'facts' }, tile(known(path.own), 'own', 'the store path alone'), tile(known(path.closure), 'closure', 'with all that it needs'),
      tile(known(path.added), 'added', 'not here without it'), tile(count(having.length, 'image'), 'have it', `${count(path.layers.length, 'layer')} in all`)),
    h('h3', null, 'The shortest way to it'),
    way ? h('ol', { class: 'way' }, way.map(step)) : h('p', { class: 'note' }, image ? `No reference leads to it in ${key(image)}: it was put there by itself, or what refers to it is not known.` : 'No image of this report has it.'),
    h('p', null, itsLayers.length ? [`In ${key(image)} it is in the layer `, itsLayers.map((layer, n) => [n ? ', ' : '', h('a', { class: 'name', href: link('stack', short(layer.digest)) }, layerName(layer))]), '. '] : null,
      h('a', { href: link('files', 'all', 'all', path.base) }, 'Its files')),
    h('p', { class: 'chips' }, having.map(imageLink)),
    h('div', { class: 'two' },
      h('div', null, h('h3', null, `Who refers to it (${path.referrers.length})`), path.referrers.length ? list('Referrers', path.referrers) : h('p', { class: 'muted' }, 'Nothing in this report.')),
      h('div', null, h('h3', null, `What it refers to (${path.references.length})`), path.references.length ? list('References', path.references) : h('p', { class: 'muted' }, 'Nothing.')))];
};
