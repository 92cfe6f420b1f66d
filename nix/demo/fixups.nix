# What is particular to single units: their outputs, and shell commands that are run
# when their programs have been tied to the store (see build.sh for the functions).
{
  # The loader looks for libraries where programs say, and nowhere else: what is
  # missing is missing on every machine. (`/nix` is a directory without libraries.)
  #
  # Locales are looked for in the root of the image, where a shell brings C.UTF-8.
  glibc.fixup = _: ''
    replace_in "$(readlink -f $out/lib/$triplet/ld-linux-*)" /etc/ld.so.cache /nix/ld.so.cache
    replace_in "$(readlink -f $out/lib/$triplet/ld-linux-*)" /lib/ /nix/
    replace_in $out/lib/$triplet/libc.so.6 /usr/lib/locale /////lib/locale
    rm -rf $out/etc $out/share/libc-bin
  '';

  # The terminal database lies at the top of a unit with a name of three letters:
  # its store path is then exactly as long as the search path that is compiled into
  # libtinfo, and takes its place there. Whatever draws on a terminal finds it
  # without an environment variable.
  tdb.name = "tdb";
  tdb.fixup = _: ''
    for directory in lib share; do
      if [ -d $out/$directory/terminfo ]; then merge $out/$directory/terminfo $out; fi
    done
    rm -rf $out/lib $out/etc $out/share/tabset
  '';
  libtinfo6.fixup = units: ''
    for file in $out/lib/$triplet/libtinfo.so.*.*; do
      replace_in $file /etc/terminfo:/lib/terminfo:/usr/share/terminfo ${units.tdb}
    done
  '';

  bash.fixup = units: ''
    ln -s bash $out/bin/sh
    mkdir -p $out/lib/locale
    ln -s ${units.glibc}/lib/locale/C.utf8 $out/lib/locale/C.utf8
    rm -rf $out/etc
  '';

  cacert.fixup = _: ''
    mkdir -p $out/etc/ssl/certs
    cat $out/share/ca-certificates/*/*.crt >$out/etc/ssl/certs/ca-bundle.crt
    rm -rf $out/bin $out/etc/ca-certificates $out/share/ca-certificates
  '';

  curl.outputs = [
    "bin"
    "dev"
    "out"
    "man"
  ];

  # git looks for its commands and templates in /usr, and its shell scripts use a
  # few commands that an image may not have otherwise.
  git.fixup = units: ''
    environment="export GIT_EXEC_PATH=$out/lib/git-core
    export GIT_TEMPLATE_DIR=$out/share/git-core/templates GITPERLLIB=$out/share/perl5
    export PATH=\"\''${PATH:+\$PATH:}${units.coreutils}/bin:${units.gnugrep}/bin:${units.gnused}/bin\""
    rm -f $out/lib/git-core/git
    mv $out/bin/git $out/lib/git-core/git
    for program in $out/bin/git $out/bin/git-receive-pack $out/bin/git-upload-*; do
      wrap $program $out/lib/git-core/''${program##*/} "$environment"
    done
  '';

  iana-etc.fixup = _: ''
    rm -f $out/etc/rpc $out/etc/ethertypes
  '';

  jdk_headless.fixup = _: ''
    mkdir -p $out/bin
    for program in $out/lib/jvm/java-*-openjdk-*/bin/*; do
      ln -sf $program $out/bin/''${program##*/}
    done
  '';

  openssl.fixup = _: ''
    mkdir -p $out/libexec
    mv $out/bin/openssl $out/libexec/openssl
    wrap $out/bin/openssl $out/libexec/openssl \
      "export OPENSSL_CONF=\"\''${OPENSSL_CONF:-$out/etc/ssl/openssl.cnf}\""
  '';

  # Perl's own search path is compiled in.
  perl.fixup = _: ''
    mkdir -p $out/libexec
    mv $out/bin/perl $out/libexec/perl
    libraries=
    for directory in $out/lib/$triplet/perl/*.*.* $out/lib/$triplet/perl-base $out/share/perl/*.*.*; do
      libraries=''${libraries:+$libraries:}$directory
    done
    wrap $out/bin/perl $out/libexec/perl \
      "export PERL5LIB=\"\''${PERL5LIB:+\$PERL5LIB:}$libraries\""
    rm -f $out/bin/perl5.* $out/bin/cpan5.*
    rm -rf $out/etc
  '';

  procps.fixup = _: ''
    if [ -e $out/bin/w.procps ]; then mv $out/bin/w.procps $out/bin/w; fi
  '';

  # Python finds its library beside the real program; the modules of an image are
  # in the image's root, where the link to the program is that was started.
  python3.fixup = _: ''
    rm -rf $out/bin/py3* $out/etc $out/lib/python3*/sitecustomize.py
    ln -s python3 $out/bin/python
    cat >"$(echo $out/lib/python3.*)/sitecustomize.py" <<END
    import os, site, sys

    root = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable or sys.prefix)))
    if root != sys.prefix:
        site.addsitedir(os.path.join(root, "lib", "python3", "dist-packages"))
    END
  '';

  vim.fixup = _: ''
    mkdir -p $out/libexec
    mv $out/bin/vim.basic $out/libexec/vim.basic
    environment="export VIMRUNTIME=\"\''${VIMRUNTIME:-$(echo $out/share/vim/vim[0-9]*)}\""
    # It is started by many names, and does by them what it does.
    for program in $out/bin/*; do
      case $(readlink $program) in *vim.basic)
        ln -s vim.basic $out/libexec/''${program##*/}
        wrap $program $out/libexec/''${program##*/} "$environment" ;;
      esac
    done
  '';

  which.fixup = _: ''
    rm -f $out/bin/add-shell $out/bin/remove-shell $out/bin/update-shells $out/bin/installkernel
  '';
}
