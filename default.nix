# What there is for Nix to build, by nixpkgs' conventions:
#
#     nix-build -A nixery                                      with the channel's nixpkgs
#     pkgs.callPackage ./default.nix { inherit pkgs; }         from an overlay
#
# As services of NixOS are made of it: `nix/module.nix`.
{
  pkgs ? import <nixpkgs> { },
  lib ? pkgs.lib,
  python3Packages ? pkgs.python3Packages,
  nix ? pkgs.nix,
  # Of the image: what else is in it, and how many layers it may have.
  extraContents ? [ ],
  maxLayers ? 100,
}:

let
  version = lib.head (
    builtins.match ".*VERSION = \"([^\"]+)\".*" (builtins.readFile ./nixery/version.py)
  );

  # What the daemon runs.
  runtimePrograms = [
    nix
    pkgs.git
    pkgs.git-lfs
    pkgs.openssh
    pkgs.util-linux
  ];

  nixery = python3Packages.buildPythonApplication {
    pname = "nixery";
    inherit version;
    pyproject = true;

    src = lib.fileset.toSource {
      root = ./.;
      fileset = lib.fileset.unions (
        # What running the tests in a checkout leaves behind does not change the package.
        map (lib.fileset.fileFilter (file: !file.hasExt "pyc")) [
          ./nix
          ./nixery
          ./tests
          ./twisted
          ./web
        ]
        ++ [
          ./LICENSE
          ./MANIFEST.in
          ./README.md
          ./default.nix
          ./nixery.service
          ./pyproject.toml
          ./setup.py
          ./tox.ini
        ]
      );
    };

    build-system = with python3Packages; [
      setuptools
      # These build the documentation.
      sphinx
      myst-parser
      attrs
      pyyaml
    ];

    dependencies =
      (with python3Packages; [
        attrs
        bcrypt
        cachetools
        fastcrc
        google-cloud-storage
        isal
        jinja2
        klein
        networkx
        packaging
        prometheus-client
        pyjwt
        pyyaml
        rapidfuzz
        tqdm
        treq
        twisted
        zstandard
      ])
      ++ python3Packages.pyjwt.optional-dependencies.crypto
      ++ python3Packages.twisted.optional-dependencies.tls;

    # The machine's own Nix comes first, if there is one: it knows its daemon.
    makeWrapperArgs = [
      "--suffix"
      "PATH"
      ":"
      (lib.makeBinPath runtimePrograms)
    ];

    # twistd belongs to another package, whose own would not look for plugins here.
    # This becomes one that does, as all scripts of a Python application are wrapped.
    postInstall = ''
      cat >$out/bin/nixery <<'END'
      #!/usr/bin/env python3
      import sys
      from twisted.scripts.twistd import run
      sys.argv[1:1] = ["--nodaemon", "--pidfile=", "--umask=077", "nixery"]
      sys.exit(run())
      END
      chmod 755 $out/bin/nixery
      # Twisted would write its cache of plugins beside them, into the store.
      rm -f $out/${python3Packages.python.sitePackages}/twisted/plugins/dropin.cache
    '';

    nativeCheckInputs =
      (with python3Packages; [
        cyclonedx-python-lib
        hypothesis
        spdx-tools
      ])
      ++ python3Packages.cyclonedx-python-lib.optional-dependencies.json-validation;

    checkPhase = ''
      runHook preCheck
      HOME=$TMPDIR python -m twisted.trial --temp-directory=$TMPDIR/trial tests.unit
      runHook postCheck
    '';

    pythonImportsCheck = [
      "nixery.tap"
      "twisted.plugins.nixery_plugin"
    ];

    passthru = {
      inherit runtimePrograms;
    };

    meta = {
      description = "A container registry that builds images on demand, with Nix";
      license = lib.licenses.mit;
      platforms = lib.platforms.linux;
      mainProgram = "nixery";
    };
  };

  modules = "${nixery}/${python3Packages.python.sitePackages}/nixery";

  # Does by hand what the daemon does with Nix, and shows the expressions for it.
  nixery-prepare = pkgs.runCommand "nixery-prepare-${version}" { } ''
    mkdir -p $out/bin $out/share/nixery
    ln -s ${nixery}/bin/nixery-prepare-image $out/bin/
    ln -s ${modules}/_nix/{attributes,fetch,lookup,package_set,resolve,text}.nix $out/share/nixery/
  '';

  # Counts how many packages refer to each store path.
  nixery-popcount = pkgs.runCommand "nixery-popcount-${version}" { } ''
    mkdir -p $out/bin
    ln -s ${nixery}/bin/nixery-popcount $out/bin/
  '';

  # The pages that the daemon serves under /docs.
  nixery-docs = pkgs.runCommand "nixery-docs-${version}" { } ''
    mkdir -p $out/share/doc
    cp -r ${modules}/_docs $out/share/doc/nixery
  '';
in
{
  inherit
    nixery
    nixery-prepare
    nixery-popcount
    nixery-docs
    ;

  nixery-image = import ./nix/image.nix {
    inherit
      pkgs
      lib
      nix
      nixery
      nixery-prepare
      extraContents
      maxLayers
      ;
  };
}
