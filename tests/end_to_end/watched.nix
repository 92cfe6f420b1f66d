# Packages whose builds can be watched and held back: every build adds its name to a
# journal outside of the store, and some wait for a file before they go on.  The
# builder is the machine's own shell, so that nothing has to be fetched.
{ system ? builtins.currentSystem, ... }:

let
  # Salted, so that no build of an earlier run is found in the store.
  settings = builtins.fromJSON (builtins.readFile ./settings.json);

  package = name: script: inputs:
    derivation
      ({
        name = "${name}-1.0";
        inherit system;
        inherit (settings) salt journal gates;
        builder = "/bin/sh";
        args = [
          "-euc"
          ''
            export PATH=/usr/local/bin:/usr/bin:/bin
            echo ${name} >> "$journal"
            ${script}
          ''
        ];
      }
      // inputs)
    // {
      pname = name;
      version = "1.0";
      meta.description = "A package of the tests: ${name}";
    };

  wait = name: ''
    for second in $(seq 600); do
      [ ! -e "$gates/${name}" ] || break
      sleep 0.1
    done
    [ -e "$gates/${name}" ]
  '';

  file = name: content: ''
    mkdir -p "$out/share"
    echo "${content}" > "$out/share/${name}"
  '';
  simple = name: package name (file name "This is ${name}.") { };
  held = name: package name (wait name + file name "This is ${name}.") { };

  # Incompressible, so that packing it cannot go unnoticed.
  large = name: package name ''
    mkdir -p "$out/share"
    head -c 16000000 /dev/urandom > "$out/share/${name}"
  '' { };

  failing = name: package name ''
    for number in 1 2 3; do echo "line $number of the log"; done
    echo "this is why it failed" >&2
    exit 3
  '' { };

  named = make: names:
    builtins.listToAttrs (map (name: { inherit name; value = make name; }) names);

  # Built in two steps each, with something to collect in between.
  guests = builtins.genList (number: "guest-${toString number}") 20;

  # What a test counts or holds back is its own; the others are for all.
  packages =
    named simple [ "plain" "known" ]
    // named held [ "crowded" "left-alone" "endless" "queued" ]
    // named held [ "slow-docker" "slow-podman" "slow-skopeo" "slow-ctr" "slow-http" ]
    // named large [ "large" "shared" ]
    // named failing [ "failing-docker" "failing-podman" "failing-ctr" "failing-skopeo" "failing-http" ];

  using = name: used: package name (file name "$used") { inherit used; };
in
packages
// {
  first = using "first" packages.shared;
  second = using "second" packages.shared;
  third = using "third" packages.shared;
  needs-failing = using "needs-failing" packages.failing-skopeo;

  # Does not end, and heeds no signal that it could heed.
  stubborn =
    let letters = builtins.concatStringsSep "" (builtins.genList (_: "a") 64);
    in if builtins.match "(a|a)*b" letters == null then packages.plain else packages.known;
}
// named (guest: using guest (simple "host-of-${guest}")) guests
