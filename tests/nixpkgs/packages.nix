# The packages made of Debian's. `debs`: the packages unpacked into one store path, the first gives the version.
# `deps`: the store paths where its shared libraries are found. `drop`: what is left out, relative to the store path.
# `install`: shell that runs there when all that is in place.
# Every shared library asked for must be in `deps`, or the build fails and names it.
{
  glibc = { debs = [ "libc6" ]; drop = [ "lib/gconv" "lib/audit" "bin" "share" ]; };
  gcc-libs = { debs = [ "libstdc++6" "libgcc-s1" "libgomp1" "libatomic1" ]; deps = [ "glibc" ]; drop = [ "share" ]; };
  zlib = { debs = [ "zlib1g" ]; deps = [ "glibc" ]; };
  expat = { debs = [ "libexpat1" ]; deps = [ "glibc" ]; };
  libffi = { debs = [ "libffi8" ]; deps = [ "glibc" ]; };
  bzip2 = { debs = [ "libbz2-1.0" ]; deps = [ "glibc" ]; };
  xz = { debs = [ "liblzma5" ]; deps = [ "glibc" ]; };
  lz4 = { debs = [ "liblz4-1" "libxxhash0" ]; deps = [ "glibc" ]; };
  libzstd = { debs = [ "libzstd1" ]; deps = [ "glibc" ]; };
  openssl = { debs = [ "libssl3t64" ]; deps = [ "glibc" "zlib" "libzstd" ]; };
  libcap = { debs = [ "libcap2" ]; deps = [ "glibc" ]; };
  libsystemd = { debs = [ "libsystemd0" ]; deps = [ "glibc" "libcap" ]; };
  jemalloc = { debs = [ "libjemalloc2" ]; deps = [ "glibc" "gcc-libs" ]; };
  liblzf = { debs = [ "liblzf1" ]; deps = [ "glibc" ]; };
  readline = { debs = [ "libreadline8t64" "libtinfo6" ]; deps = [ "glibc" ]; drop = [ "share" ]; };
  libuuid = { debs = [ "libuuid1" ]; deps = [ "glibc" ]; };
  icu = { debs = [ "libicu76" ]; deps = [ "glibc" "gcc-libs" ]; };
  libxml2 = { debs = [ "libxml2" ]; deps = [ "glibc" "zlib" "xz" ]; };
  libxslt = { debs = [ "libxslt1.1" ]; deps = [ "glibc" "libxml2" ]; drop = [ "lib/libexslt.*" ]; };
  linux-pam = { debs = [ "libpam0g" "libaudit1" "libcap-ng0" ]; deps = [ "glibc" ]; drop = [ "share" ]; };
  libselinux = { debs = [ "libselinux1" "libpcre2-8-0" ]; deps = [ "glibc" ]; };
  openldap = { debs = [ "libldap2" "libsasl2-2" ]; deps = [ "glibc" "openssl" ]; };
  krb5 = {
    debs = [ "libgssapi-krb5-2" "libkrb5-3" "libk5crypto3" "libkrb5support0" "libcom-err2" "libkeyutils1" ];
    deps = [ "glibc" ];
    drop = [ "lib/krb5" ];
  };

  # One static program; Debian's package brings no links to it.
  busybox = {
    debs = [ "busybox-static" ];
    drop = [ "share" ];
    install = "for applet in $(bin/busybox --list); do [[ -e bin/$applet ]] || ln -s busybox bin/$applet; done";
  };

  zstd = { debs = [ "zstd" ]; deps = [ "glibc" "gcc-libs" "zlib" "xz" "lz4" ]; drop = [ "share" ]; };

  redis = {
    debs = [ "redis-server" "redis-tools" ];
    deps = [ "glibc" "gcc-libs" "openssl" "libsystemd" "jemalloc" "liblzf" ];
    drop = [ "share" "lib" ];
  };

  libpq = { debs = [ "libpq5" ]; deps = [ "glibc" "openssl" "openldap" "krb5" ]; drop = [ "share" ]; };

  # Its programs find lib and share beside them, so they stay where Debian has them. The JIT, an LLVM, is left out.
  postgresql_17 = {
    debs = [ "postgresql-17" "postgresql-client-17" ];
    deps = [
      "glibc" "gcc-libs" "openssl" "zlib" "libzstd" "lz4" "icu" "libxml2" "libxslt" "linux-pam" "krb5" "openldap"
      "libsystemd" "libuuid" "readline" "libpq" "libselinux"
    ];
    drop = [
      "bin" "lib/systemd" "lib/postgresql/17/lib/{bitcode,llvmjit*,pgxs}" "share/{apport,lintian,perl5,postgresql-common}"
      "share/postgresql/17/man"
    ];
    install = "mkdir bin; for program in lib/postgresql/17/bin/*; do ln -s ../$program bin/; done";
  };

  pgvector = {
    debs = [ "postgresql-17-pgvector" ];
    deps = [ "glibc" ];
    drop = [ "lib/postgresql/17/lib/bitcode" ];
  };

  python3 = {
    debs = [ "python3.13-minimal" "libpython3.13-minimal" "libpython3.13-stdlib" ];
    deps = [ "glibc" "openssl" "zlib" "expat" "libffi" "bzip2" "xz" ];
    install = "ln -s python3.13 bin/python3";
    # Modules for libraries that no package here needs.
    drop = [
      "share" "lib/binfmt.d" "lib/python3.13/{ensurepip,idlelib,lib2to3}"
      "lib/python3.13/lib-dynload/{_curses,_curses_panel,_dbm,_sqlite3,_uuid,readline}.*"
    ];
  };
}
