# Packages with names that a layer cannot have, and with links that lead out of the store.
# `busybox` is a static program beside this file; `settings.json` has a salt and a directory of
# the machine that links lead to.
{ system ? builtins.currentSystem, ... }:

let
  settings = builtins.fromJSON (builtins.readFile ./settings.json);

  mk = name: script: derivation {
    name = "${name}-1.0";
    inherit system;
    inherit (settings) salt host;
    builder = "${./bin}/busybox";
    args = [ "sh" "-euc" script ];
  } // { pname = name; version = "1.0"; };
in
rec {
  # A shell and tools, certificates and fonts: what an image is expected to have.
  tools = mk "tools" ''
    mkdir -p $out/bin $out/etc/ssl/certs $out/share/fonts
    cp ${./bin}/busybox $out/bin/busybox
    for tool in sh bash env id cat ls touch grep test readlink; do ln -s busybox $out/bin/$tool; done
    echo certificate > $out/etc/ssl/certs/ca-bundle.crt
    echo font > $out/share/fonts/own
  '';

  # Everything that an image needs, as links to the machine or to the place itself.
  astray = mk "astray" ''
    mkdir -p $out/bin $out/etc $out/share $out/var
    for name in bash env sh; do ln -s $host/bin/$name $out/bin/$name; done
    ln -s $host/passwd $out/etc/passwd
    ln -s /etc/group $out/etc/group
    ln -s $host/certificates $out/etc/ssl
    ln -s $host/fonts $out/share/fonts
    ln -s /tmp $out/tmp
    ln -s / $out/usr
    ln -s /root $out/root
    ln -s /run/empty $out/var/empty
    ln -s $host $out/host
  '';

  # The same, of whole directories.
  astray-all = mk "astray-all" ''
    mkdir -p $out
    ln -s /etc $out/etc
    ln -s $host/bin $out/bin
    ln -s /var/tmp $out/tmp
    ln -s $host $out/var
    ln -s $host/share $out/share
  '';

  # Names that some reader of archives might take for something else.
  odd = mk "odd" ''
    mkdir -p $out/share/odd
    cd $out/share/odd
    long=deep-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    for name in .wh .whx x.wh. .WH.x ... -rf ' ' '\n' 'C:x' '~' PaxHeaders.0 .dockerenv '*' '"' \
      "$(printf 'a\nb')" "$(printf '\377\376')" "$(printf 'e\314\201')" "$(printf '\303\251')" \
      "$long$long$long"; do
      printf '%s\n' "$name" > "./$name"
    done
    deep=$long/$long/$long/$long/$long/$long/$long/$long/$long/$long
    deep=$deep/$deep/$deep
    mkdir -p $deep
    echo deep > $deep/file
    ln -s "$deep/file" link
  '';

  whiteout = mk "whiteout" "mkdir -p $out/bin; echo hi > $out/.wh.nix";
  whiteout-within = mk "whiteout-within" ''
    mkdir -p $out/share/t
    echo hi > $out/share/t/.aaa
    echo hi > $out/share/t/.wh..aaa
  '';
  whiteout-opaque = mk "whiteout-opaque" "mkdir -p $out/share/t/.wh..wh..opq";
  whiteout-of-nothing = mk "whiteout-of-nothing" "mkdir -p $out/share; echo > $out/share/.wh.";
  needs-whiteout = mk "needs-whiteout" "mkdir -p $out/share; echo ${whiteout} > $out/share/uses";
}
