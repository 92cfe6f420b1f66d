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

  failing = failingAfter (name: "");
  heldFailing = failingAfter wait;
  failingAfter = before: name: package name ''
    ${before name}
    for number in 1 2 3; do echo "line $number of the log"; done
    echo "this is why it failed" >&2
    exit 3
  '' { };

  # What Nix finds after the builder has succeeded, or what the builder says that Nix would say.
  unacceptable = {
    talking-of-timeout = package "talking-of-timeout"
      "echo 'FAIL: test_login timed out after 30 seconds'; exit 1" { };
    talking-of-collection = package "talking-of-collection"
      "echo 'error: failed to obtain derivation of the function'; exit 1" { };
    forbidding = package "forbidding" "echo compiling; echo ${packages.plain} > $out" {
      disallowedReferences = [ packages.plain ];
    };
    fifo = package "fifo" "echo compiling; mkfifo $out" { };
    directory = package "directory" "echo compiling; mkdir $out" {
      outputHashMode = "flat";
      outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    };
    killed = package "killed" "echo compiling; kill -9 $$" { };
  };

  # Tells what it does in two steps, and waits after the first.
  stepwise = name: package name (''
    echo "the first line of ${name}"
    ${wait name}
    echo "the last line of ${name}"
  '' + file name "This is ${name}.") { };

  # Prints more than is kept in memory, and fails behind another derivation that does so.
  verbose = name: count: end: package name ''
    seq ${toString count} | sed "s/.*/${name} line &/"
    ${end}
  '';

  # What a page must never take for anything but text.
  markup = "<img src=x onerror=alert(1)>";
  script = "\"><script>alert(2)</script>'";
  hostile = name: end: package name (''
    printf '%s\n' '${markup}' '</pre><script>alert(3)</script>' '&lt;b&gt; {{ 7 * 7 }}'
    printf '\033[31mred\033[0m \033]8;;javascript:alert(4)\007link \342\200\256desrever \000\n'
    ${end}
  '') { } // {
    pname = markup;
    version = script;
    meta.description = "${markup} ${script} javascript:alert(5)";
  };

  # Hundreds of store paths of one build: a tree, and one that all others need.
  parts = builtins.genList (number: "part${toString number}") 300;
  estate = package "estate" ''
    for number in $(seq 0 299); do
      eval "here=\$part$number"
      mkdir "$here"
      for needed in $((2 * number + 1)) $((2 * number + 2)) 299; do
        [ "$needed" -gt 299 ] || [ "$needed" -le "$number" ] || eval "echo \$part$needed"
      done > "$here/needs"
      head -c $((number * number * 10)) /dev/zero > "$here/data"
    done
    mkdir "$out"
    echo "$part0" > "$out/needs"
  '' { outputs = [ "out" ] ++ parts; };

  named = make: names:
    builtins.listToAttrs (map (name: { inherit name; value = make name; }) names);

  # Built in two steps each, with something to collect in between.
  guests = builtins.genList (number: "guest-${toString number}") 20;

  # What a test counts or holds back is its own; the others are for all.
  packages =
    named simple [ "plain" "known" "priced" ]
    // named held [ "crowded" "left-alone" "endless" "queued" "joined" ]
    // named held [ "slow-docker" "slow-podman" "slow-skopeo" "slow-ctr" "slow-http" ]
    // named stepwise [ "seen-live" "seen-plain" "seen-listed" "seen-filtered" "seen-running" "seen-preview" ]
    // named large [ "large" "shared" ]
    // named failing [ "failing-docker" "failing-podman" "failing-ctr" "failing-skopeo" "failing-http" ]
    // named heldFailing [ "failing-live" "failing-plain" "failing-filtered" ];

  using = name: used: package name (file name "$used") { inherit used; };
in
packages
// unacceptable
// {
  first = using "first" packages.shared;
  second = using "second" packages.shared;
  third = using "third" packages.shared;
  verbose-failing = verbose "verbose-failing" 3000 "exit 3" {
    used = verbose "verbose-used" 1500 (file "verbose-used" "used") { };
  };
  needs-failing = using "needs-failing" packages.failing-skopeo;

  inherit estate;
  hostile = hostile "hostile" (file "hostile" "This is hostile.");
  hostile-failing = hostile "hostile-failing" "exit 1";
  # Nobody can ask for these, but they are near to what somebody may type.
  "hostile${markup}" = packages.plain;
  "hostile${script}" = packages.plain;

  # Does not end, and heeds no signal that it could heed.
  stubborn =
    let letters = builtins.concatStringsSep "" (builtins.genList (_: "a") 64);
    in if builtins.match "(a|a)*b" letters == null then packages.plain else packages.known;
}
// named (guest: using guest (simple "host-of-${guest}")) guests
