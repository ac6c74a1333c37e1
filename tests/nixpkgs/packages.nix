# The packages made of Debian's. `debs`: the packages unpacked into one store path, the first gives the version.
# `deps`: the store paths where its shared libraries are found. `drop`: what is left out, relative to the store path.
# Every shared library asked for must be in `deps`, or the build fails and names it.
{
  glibc = { debs = [ "libc6" ]; drop = [ "lib/gconv" "lib/audit" "bin" "share" ]; };
  gcc-libs = { debs = [ "libstdc++6" "libgcc-s1" "libgomp1" "libatomic1" ]; deps = [ "glibc" ]; drop = [ "share" ]; };
  zlib = { debs = [ "zlib1g" ]; deps = [ "glibc" ]; };
  expat = { debs = [ "libexpat1" ]; deps = [ "glibc" ]; };
  libffi = { debs = [ "libffi8" ]; deps = [ "glibc" ]; };
  bzip2 = { debs = [ "libbz2-1.0" ]; deps = [ "glibc" ]; };
  xz = { debs = [ "liblzma5" ]; deps = [ "glibc" ]; };
  lz4 = { debs = [ "liblz4-1" ]; deps = [ "glibc" ]; };
  zstd = { debs = [ "libzstd1" ]; deps = [ "glibc" ]; };
  openssl = { debs = [ "libssl3" ]; deps = [ "glibc" ]; };
  libcap = { debs = [ "libcap2" ]; deps = [ "glibc" ]; };
  libgcrypt = { debs = [ "libgcrypt20" "libgpg-error0" ]; deps = [ "glibc" ]; drop = [ "share" ]; };
  libsystemd = { debs = [ "libsystemd0" ]; deps = [ "glibc" "libcap" "libgcrypt" "lz4" "xz" "zstd" ]; };
  jemalloc = { debs = [ "libjemalloc2" ]; deps = [ "glibc" "gcc-libs" ]; };
  liblzf = { debs = [ "liblzf1" ]; deps = [ "glibc" ]; };

  redis = {
    debs = [ "redis-server" "redis-tools" ];
    deps = [ "glibc" "gcc-libs" "openssl" "libsystemd" "jemalloc" "liblzf" ];
    drop = [ "share" "lib" ];
  };

  python3 = {
    debs = [ "python3.11-minimal" "libpython3.11-minimal" "libpython3.11-stdlib" ];
    deps = [ "glibc" "openssl" "zlib" "expat" "libffi" "bzip2" "xz" ];
    links."bin/python3" = "python3.11";
    # Modules for libraries that no package here needs.
    drop = [
      "share" "lib/binfmt.d" "lib/python3.11/ensurepip" "lib/python3.11/idlelib" "lib/python3.11/lib2to3"
      "lib/python3.11/lib-dynload/{_crypt,_curses,_curses_panel,_dbm,_sqlite3,_uuid,nis,readline}.*"
    ];
  };
}
