# Attributes that a package set has besides packages that work: every way a lookup or
# a build can end is to be seen with the demo set.
{ package }:
let
  # A package that a shell script makes.
  script =
    name: meta: text:
    package {
      drv = derivation {
        name = "${name}-1.0";
        outputs = [ "out" ];
        system = builtins.currentSystem;
        builder = "${./seeds}/bin/busybox";
        args = [
          "sh"
          "-euc"
          text
        ];
        allowSubstitutes = false;
      };
      pname = name;
      version = "1.0";
      inherit meta;
    };

  note = name: meta: script name meta ''
    mkdir -p "$out/share"
    echo "This is ${name}." >"$out/share/${name}"
  '';

  ticking = name: seconds: script name { description = "Takes ${toString seconds} s to build"; } ''
    for second in $(seq ${toString seconds}); do
      echo "second $second of ${toString seconds}"
      sleep 1
    done
    mkdir -p "$out/share"
    echo "This is ${name}." >"$out/share/${name}"
  '';
in
{
  unrar = note "unrar" {
    description = "An unfree package";
    license = {
      free = false;
      shortName = "unfree";
    };
  };
  antique = note "antique" {
    description = "A broken package";
    broken = true;
  };
  leaky = note "leaky" {
    description = "An insecure package";
    knownVulnerabilities = [ "It leaks." ];
  };
  foreign = note "foreign" {
    description = "A package of another system";
    platforms = [ "riscv64-linux" ];
  };

  failing = script "failing" { description = "Fails to build"; } ''
    for step in 1 2 3 4 5; do echo "step $step of 5 went well"; done
    echo "error: the sixth step failed, as it always does" >&2
    exit 1
  '';
  slow = ticking "slow" 40;
  slow10 = ticking "slow10" 10;
  silent = script "silent" { description = "Prints nothing for 40 s"; } ''
    sleep 40
    mkdir "$out"
  '';

  # Not a package, but a function.
  writeText = name: text: builtins.toFile name text;
  # The lookup cannot go on after this one.
  aborting = abort "this attribute ends every evaluation that looks at it";
  # Two names that differ in case only.
  Twin = note "Twin" { description = "One of two"; };
  TWIN = note "TWIN" { description = "The other of two"; };
  # A name that no registry's grammar can express.
  "notes++" = note "notes++" { description = "Has a name with plus signs"; };
}
