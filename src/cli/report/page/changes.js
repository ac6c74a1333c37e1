// OLD → NEW: what a host that has OLD writes for NEW.
'use strict';

const STATES = { changed: 'changed', new: 'new', regrouped: 'same content, other layers', identical: 'identical' };
const WRITTEN = {
  newBlobs: ['new', 'its blob is new'],
  rewritten: ['rewritten', 'written again: a layer below it changed'],
  regrouped: ['regrouped', 'its store paths are there, in other layers'],
};

function versions(change) {
  const of = (list) => (list.length ? list.map((one) => one || '(no version)').join(', ') : null);
  const kinds = [['Changed', ([, old, now]) => old.length && now.length], ['New', ([, old]) => !old.length], ['Gone', ([, , now]) => !now.length]];
  return kinds.map(([title, is]) => {
    const list = change.packages.filter(is);
    if (!list.length) return null;
    return h('details', { class: 'packages', open: list.length < 16 }, h('summary', null, `${title}: ${count(list.length, 'package')}`),
      h('ul', null, list.map(([name, old, now]) => h('li', null, h('span', { class: 'name' }, name), ' ',
        h('span', { class: 'versions' }, of(old) ? h('del', null, of(old)) : null, of(old) && of(now) ? ' → ' : null, of(now) ? h('ins', null, of(now)) : null)))));
  });
}

function written(change, largest) {
  const fresh = new Set(data.against.newPaths);
  const rows = Object.entries(WRITTEN).flatMap(([state, [word, why]]) => change[state].map((layer) => ({ ...layer, state, word, why })));
  if (!rows.length) return null;
  const item = (layer) => {
    const known = layers.find((one) => one.digest === layer.digest);
    const list = known ? known.paths.map((n) => paths[n]).sort((a, b) => fresh.has(b.index) - fresh.has(a.index) || b.own - a.own) : [];
    const head = [h('span', { class: `state ${layer.state}` }, layer.word), h('span', { class: 'name' }, layer.title), h('span', { class: 'num' }, size(layer.size)), bar(layer.size, largest, layer.state)];
    if (!list.length) return h('li', null, h('div', { class: 'line' }, head));
    return h('li', null, h('details', null, h('summary', { class: 'line' }, head), h('p', { class: 'muted' }, `${layer.why}.`),
      h('ul', { class: 'sizes' }, list.map((path) => h('li', null, pathLink(path),
        h('span', { class: fresh.has(path.index) ? 'state newBlobs' : 'state' }, fresh.has(path.index) ? 'new' : 'in OLD too'), h('span', { class: 'num' }, size(path.own)))))));
  };
  return h('ul', { class: 'written' }, rows.map(item));
}

views.changes = () => {
  const { against } = data;
  const largest = Math.max(1, ...against.changes.flatMap((change) => Object.keys(WRITTEN).flatMap((state) => change[state].map((layer) => layer.size))));
  const number = (state) => against.changes.filter((change) => change.state === state).length;
  const fresh = against.newPaths.map((n) => paths[n]);
  const told = against.changes.filter((change) => change.state !== 'identical');
  const same = against.changes.filter((change) => change.state === 'identical');
  const card = (change) => h('article', { class: 'card', id: `change-${change.name}` },
    h('h3', null, h('span', { class: 'name' }, change.name), ' ', h('span', { class: `state ${change.state}` }, STATES[change.state]), h('span', { class: 'num' }, size(change.bytesToWrite))),
    change.bytesRegrouped ? h('p', { class: 'muted' }, `Where Podman unpacks layers, ${size(change.bytesRegrouped)} more: layers have other boundaries.`) : null,
    written(change, largest), versions(change),
    change.settings.length ? [h('h4', null, 'Settings'), h('ul', null, change.settings.map((one) => h('li', null, one)))] : null);
  return [h('div', { class: 'facts' },
    tile(size(against.bytesToWrite), 'to write', `on a host that has ${against.title}`),
    against.bytesRegrouped ? tile(size(against.bytesRegrouped), 'regrouped', 'written again only where Podman unpacks layers') : null,
    tile(`${number('changed') + number('new') + number('regrouped')} of ${against.changes.length}`, 'images differ', against.removed.length ? `${against.removed.length} removed` : null),
    tile(fresh.length, fresh.length === 1 ? 'new store path' : 'new store paths', size(sum(fresh.map((path) => path.own)))),
    tile(against.gonePaths.length, against.gonePaths.length === 1 ? 'store path gone' : 'store paths gone', null),
    against.bytesToWriteHere !== undefined ? tile(size(against.bytesToWriteHere), 'to write here', 'on the host that made this report') : null),
  h('div', { class: 'head' }, h('h2', { tabindex: '-1' }, h('span', { class: 'name' }, against.title), ' → ', h('span', { class: 'name' }, data.title))),
  against.warnings.map((warning) => h('p', { class: 'note' }, warning)),
  against.services.length ? h('section', { class: 'card' }, h('h3', null, 'Services'), h('ul', null, against.services.map(({ name, action, why }) =>
    h('li', null, h('span', { class: 'name' }, name), ` would ${action}`, why.length ? `: ${why.join(', ')}` : null)))) : null,
  told.map(card),
  same.length ? h('p', { class: 'muted' }, `Identical: ${same.map((change) => change.name).join(', ')}.`) : null,
  against.removed.length ? h('p', null, `Removed: ${against.removed.join(', ')}.`) : null,
  fresh.length ? [h('h3', null, 'New store paths'), table(count(fresh.length, 'store path'), [['Store path', pathLink, (path) => path.name], ...sizesOf], fresh, { sorted: [1, true], limit: 40 })] : null,
  against.gonePaths.length ? [h('h3', null, 'Store paths that are gone'), table(count(against.gonePaths.length, 'store path'), [
    ['Store path', ([base]) => h('span', { class: 'name', title: base }, base.slice(33)), ([base]) => base.slice(33)],
    ['Own', ([, own]) => known(own), ([, own]) => own || 0, 'num'],
  ], against.gonePaths, { sorted: [1, true], limit: 40 })] : null];
};
