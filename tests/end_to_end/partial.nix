# Packages of some hundred files, of which updates change few or many: `leaf` of settings.json goes
# into a file of the package at the top, `bottom` into one of that which all others refer to.
{ system ? builtins.currentSystem, ... }:

let
  settings = builtins.fromJSON (builtins.readFile ./settings.json);

  mk = name: environment: script: derivation ({
    name = "${name}-1.0";
    inherit system;
    inherit (settings) salt;
    builder = "${./bin}/busybox";
    args = [ "sh" "-euc" script ];
  } // environment) // { pname = name; version = "1.0"; };

  # Files whose contents are all different, and compress like programs.
  files = name: ''
    mkdir -p $out/share/${name}
    for at in $(seq 1 200); do
      { echo $salt ${name} $at; tail -c +$((at * 4000)) $builder | head -c $((2000 + at * 300)); } > $out/share/${name}/$at
    done
  '';
in
rec {
  bottom = mk "bottom" { inherit (settings) bottom; } ''
    ${files "bottom"}
    echo $bottom > $out/share/bottom/changed
  '';

  middle = mk "middle" { inherit bottom; } ''
    ${files "middle"}
    for at in $(seq 1 50); do echo $bottom >> $out/share/middle/$at; done
  '';

  leaf = mk "leaf" { inherit (settings) leaf; inherit middle; } ''
    ${files "leaf"}
    echo $middle > $out/share/leaf/middle
    { echo $leaf; cat $builder; } > $out/share/leaf/changed
    mkdir -p $out/bin
    cp $builder $out/bin/busybox
    for tool in sh cat find sha256sum sort; do ln -s busybox $out/bin/$tool; done
  '';

  # Entries that formats treat apart: names longer than 255 and 100 bytes, an empty file, one file
  # under two names, and one with a hole.
  odd = mk "odd" { } ''
    long=$(printf '%0150d' 0)
    mkdir -p $out/share/odd/$long/$long
    echo $salt deep > $out/share/odd/$long/$long/$long
    : > $out/share/odd/empty
    echo $salt twice > $out/share/odd/one
    ln $out/share/odd/one $out/share/odd/two
    echo $salt > $out/share/odd/holes
    dd if=/dev/zero of=$out/share/odd/holes bs=1 count=1 seek=3000000
  '';

  # A name that is not UTF-8: tables of contents cannot have it.
  latin = mk "latin" { } ''
    mkdir -p $out/share/latin
    echo $salt > $out/share/latin/$(printf 'caf\351')
  '';
}
