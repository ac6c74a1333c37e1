# What nixpkgs says in `meta` of packages here: licences, addresses and CPE parts, as its package files have them. The versions are
# those of Debian's packages.
let
  licence = spdxId: fullName: { inherit spdxId fullName; shortName = spdxId; free = true; };
  cpe = vendor: product: { inherit vendor product; };
in
{
  busybox = { homepage = "https://busybox.net/"; license = licence "GPL-2.0-only" "GNU General Public License v2.0 only"; cpe = cpe "busybox" "busybox"; };
  expat = { homepage = "https://libexpat.github.io/"; license = licence "MIT" "MIT License"; cpe = cpe "libexpat_project" "libexpat"; };
  glibc = { homepage = "https://www.gnu.org/software/libc/"; license = licence "LGPL-2.0-or-later" "GNU Library General Public License v2 or later"; cpe = cpe "gnu" "glibc"; };
  jemalloc = { homepage = "https://jemalloc.net/"; license = licence "BSD-2-Clause" "BSD 2-clause \"Simplified\" License"; };
  openssl = { homepage = "https://www.openssl.org/"; license = licence "Apache-2.0" "Apache License 2.0"; mainProgram = "openssl"; cpe = cpe "openssl" "openssl"; };
  postgresql_17 = { homepage = "https://www.postgresql.org"; license = licence "PostgreSQL" "PostgreSQL License"; mainProgram = "postgres"; cpe = cpe "postgresql" "postgresql"; };
  redis = { homepage = "https://redis.io"; license = licence "AGPL-3.0-only" "GNU Affero General Public License v3.0 only"; mainProgram = "redis-cli"; cpe = cpe "redis" "redis"; };
  zlib = { homepage = "https://zlib.net"; license = licence "Zlib" "zlib License"; cpe = cpe "zlib" "zlib"; };
}
