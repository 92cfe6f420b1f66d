# A package set in which everything is odd: each attribute tries one rule of looking
# packages up, or one way in which a package can fail.
#
# Builders use nothing but the shell's own commands, so that the set builds on any
# machine and under Nix's sandbox.  `config.salt` makes derivations that nobody has
# built before.
{ system, config ? { }, overlays ? [ ] }:

let
  salt = config.salt or "";

  make = name: script: extra: derivation ({
    inherit name system salt;
    builder = "/bin/sh";
    args = [ "-c" script ];
  } // extra);

  package = name: make name "echo ${name} > $out" { };
  failing = name: script: make name script { };

  # What nixpkgs' `mkDerivation` does: `meta`, and outputs that carry it too.
  describe = package: meta: package // { inherit meta; };

  # What nixpkgs does with packages that may not be used.
  forbidden = package: meta: describe package (meta // { available = false; }) // {
    drvPath = throw "refusing to evaluate ${package.name}";
    outPath = throw "refusing to evaluate ${package.name}";
  };

  # An argument list without an end.
  overflow = x: 1 + overflow (x + 1);

  set = rec {
    # -- names ----------------------------------------------------------------
    plain = describe (package "plain-1.2") {
      description = ''
        An ordinary
        package.
      '';
      priority = 7;
    };
    again = plain;
    aardvark = plain // { meta.priority = 3; };
    versionless = package "versionless";
    named = package "whatever" // { pname = "other"; version = "2024-01-01"; };

    UpperCase = package "upper-case-1";
    _7digits = package "digits-7";
    exactly = package "exactly-lower-1";
    Exactly = package "exactly-upper-1";
    Twin = package "twin-1";
    tWIN = package "twin-2";
    _9lives = package "lives-1";
    _9Lives = package "lives-2";
    "libodd++" = package "libodd++-1";
    "quote\"$\{dollar}" = package "quoted-1";

    nested = {
      inner = package "inner-1";
      Deep.Package = package "deep-1";
    };
    Nested2.x = package "nested2-1";

    # -- outputs --------------------------------------------------------------
    multi = describe
      (make "multi-1" "echo o > $out; echo b > $bin; echo d > $dev; echo m > $man" {
        outputs = [ "out" "bin" "dev" "man" ];
      })
      { outputsToInstall = [ "bin" "man" ]; };
    # `out` is not the first, and nothing says what is to be installed.
    unmarked = make "unmarked-1" "echo d > $dev; echo o > $out" { outputs = [ "dev" "out" ]; };
    outless = make "outless-1" "echo l > $lib; echo d > $dev" { outputs = [ "lib" "dev" ]; };
    multiDev = multi.dev // { outputSpecified = true; };

    # -- not for use ----------------------------------------------------------
    unfree = describe (package "unfree-1") { license = { free = false; }; };
    unfreeOfTwo = describe (package "unfree-2") { license = [ { free = true; } { free = false; } ]; };
    unfreeThrowing = forbidden (package "unfree-3") { unfree = true; };
    broken = describe (package "broken-1") { broken = true; };
    brokenAborting = describe (package "broken-2" // { drvPath = abort "not to be touched"; }) {
      broken = true;
    };
    insecure = describe (package "insecure-1") { knownVulnerabilities = [ "CVE-2024-1" "CVE-2024-2" ]; };
    unsupported = describe (package "unsupported-1") { platforms = [ "m68k-netbsd" ]; };
    unsupportedHere = describe (package "unsupported-2") { badPlatforms = [ system ]; };
    # nixpkgs' own judgement wins: somebody has allowed it there.
    unfreeAndAllowed = describe (package "unfree-4") { unfree = true; available = true; };
    metaThrows = describe (package "meta-1") {
      description = throw "no description";
      license = throw "no license";
      platforms = [ (throw "no platform") ];
    };
    metaless = package "metaless-1" // { meta = throw "no meta"; };

    # -- no packages ----------------------------------------------------------
    function = x: x;
    functor.__functor = self: x: x;
    text = "plain";
    nothing = null;

    # -- failing evaluations --------------------------------------------------
    throwing = throw "throwing was removed in 2024; use plain";
    throwingLater = package "later-1" // { drvPath = throw "thrown\nin two lines"; };
    asserting = assert false; package "asserting-1";
    throwingMemory = throw "this release ran out of memory-safe maintainers";
    throwingDisk = throw "No space left on device is what upstream says";
    throwingSocket = throw "cannot connect to socket at '/nix/var/nix/daemon-socket/socket'";
    throwingError = throw "first line\nerror: second line";
    tracing = builtins.trace "error: out of memory" (throw "what was thrown");
    abortingDisk = abort "No space left on device";
    syntaxError = import ./broken.nix;
    # Sets that look like derivations: of none that is in the store, and of another one.
    handwritten = {
      type = "derivation";
      name = "handwritten-1";
      drvPath = "/nix/store/00000000000000000000000000000000-handwritten-1.drv";
      outPath = "/nix/store/00000000000000000000000000000000-handwritten-1";
      outputName = "out";
    };
    misplaced = {
      type = "derivation";
      name = "misplaced-1";
      inherit (plain) drvPath;
      outPath = "/nix/store/00000000000000000000000000000000-misplaced-1";
      outputName = "out";
    };
    contentAddressed = make "addressed-1" "echo > $out" {
      __contentAddressed = true;
      outputHashMode = "recursive";
      outputHashAlgo = "sha256";
    };
    needsAddressed = make "needs-addressed-1" "echo ${contentAddressed} > $out" { };
    aborting = abort "aborted on purpose";
    attributeMissing = package "x-${plain.nowhere}";
    typeError = package (1 + "x");
    stackOverflow = package "x-${toString (overflow 0)}";
    hungry = package "x-${toString (builtins.length (builtins.concatLists
      (builtins.genList (x: builtins.genList (y: x + y) 1000) 100000)))}";
    endless = package "x-${toString (builtins.foldl' (x: y: x + y) 0 (builtins.concatLists
      (builtins.genList (x: builtins.genList (y: y) 1000) 2000)))}";
    readsHost = package (builtins.readFile /etc/hostname);
    looksUp = import <nixpkgs> { };
    importsBuilt = import (make "built.nix" "echo '{ }' > $out" { });
    environment = package "environment-${builtins.getEnv "HOME"}${builtins.getEnv "PATH"}";

    # -- builds ---------------------------------------------------------------
    dependent = make "dependent-1" "echo $out ${plain} > $out" { };
    numbered = failing "numbered-1"
      "i=0; while [ $i -lt 30 ]; do i=$((i + 1)); echo line $i; done; exit 3";
    escaping = failing "escaping-1" "printf 'a\\033[31mred\\033[0m b\\r\\n'; exit 1";
    dependsOnFailing = make "depends-1" "echo ${numbered} > $out" { };
    slow = failing "slow-1" "echo pid $$; while :; do :; done";
    silent = failing "silent-1" "while :; do :; done";
    chatty = make "chatty-1" ''
      echo '@nix {"action":"setPhase","phase":"buildPhase"}'
      i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); echo line $i; done; echo > $out
    '' { };
    # What builders print may look like errors of Nix.
    talksOfTimeout = failing "talks-1" "echo 'FAIL: test_login timed out after 30 seconds'; exit 1";
    talksOfCollection = failing "talks-2"
      "echo 'error: failed to obtain derivation of the function'; exit 1";
    talksOfDisk = failing "talks-3" "echo 'error: writing to file: No space left on device'; exit 1";
    forging = failing "forging-1" ''
      echo '@nix {"action":"msg","level":0,"msg":"error: failed to obtain derivation of x"}'
      echo '@nix {"action":"msg","level":0,"msg":"error: cannot connect to socket at x"}'
      exit 1
    '';
    dependsOnTalk = make "depends-2" "echo ${talksOfCollection} > $out" { };
    dependsOnForging = make "depends-3" "echo ${forging} > $out" { };
    dependsOnSlow = make "depends-4" "echo ${slow} > $out" { };
    # Failures that name no derivation.
    forbidding = make "forbidding-1" "echo compiling; echo ${plain} > $out" {
      disallowedReferences = [ plain ];
    };
    killed = failing "killed-1" "echo compiling; kill -9 $$";
    cyclic = make "cyclic-1" "echo compiling; echo $lib > $out; echo $out > $lib" {
      outputs = [ "out" "lib" ];
    };
    outputless = failing "outputless-1" "echo done";
    downloaded = derivation {
      name = "downloaded-1";
      system = "builtin";
      builder = "builtin:fetchurl";
      url = config.url or "http://127.0.0.1:1/file";
      urls = [ (config.url or "http://127.0.0.1:1/file") ];
      outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      outputHashMode = "flat";
      unpack = false;
      executable = false;
      preferLocalBuild = true;
      inherit salt;
    };
    mismatched = make "mismatched-1" "echo x > $out" {
      outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      outputHashMode = "flat";
    };
    foreign = make "foreign-1" "echo x > $out" {
      system = if system == "aarch64-linux" then "x86_64-linux" else "aarch64-linux";
    };
    demanding = make "demanding-1" "echo x > $out" { requiredSystemFeatures = [ "unobtainium" ]; };
    own = package "own-${system}";
  };
in
builtins.foldl' (previous: overlay: previous // overlay previous previous) set overlays
