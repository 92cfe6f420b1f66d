# The package, in the form that nixpkgs has its Python packages in:
#
#     nix-build                                     with the channel's nixpkgs
#     pkgs.callPackage ./default.nix { }            from an overlay
#
# It is a Python package rather than an application, because twistd, which belongs
# to another package, has to find it: see `nix/module.nix`.
{
  pkgs ? import <nixpkgs> { },
  lib ? pkgs.lib,
  python3Packages ? pkgs.python3Packages,
  git ? pkgs.git,
  nix ? pkgs.nix,
  openssh ? pkgs.openssh,
  util-linux ? pkgs.util-linux,
}:

python3Packages.buildPythonPackage {
  pname = "nixery";
  version = lib.head (builtins.match ".*VERSION = \"([^\"]+)\".*" (builtins.readFile ./nixery/version.py));
  pyproject = true;

  src = lib.cleanSource ./.;

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
      google-cloud-storage
      isal
      jinja2
      klein
      networkx
      prometheus-client
      pyjwt
      pyyaml
      tqdm
      treq
      twisted
      zstandard
    ])
    ++ python3Packages.pyjwt.optional-dependencies.crypto
    ++ python3Packages.twisted.optional-dependencies.tls;

  # Twisted would write its cache of plugins beside them, into the store.
  postInstall = ''
    rm -f $out/${python3Packages.python.sitePackages}/twisted/plugins/dropin.cache
  '';

  nativeCheckInputs = with python3Packages; [
    hypothesis
  ];

  checkPhase = ''
    runHook preCheck
    HOME=$TMPDIR python -m twisted.trial tests.unit
    runHook postCheck
  '';

  pythonImportsCheck = [ "nixery.tap" ];

  # What the daemon runs, for those who make a service of it.
  passthru.runtimePrograms = [
    git
    nix
    openssh
    util-linux
  ];

  meta = {
    description = "A container registry that builds the images it is asked for, with Nix";
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
    mainProgram = "nixery-prepare-image";
  };
}
