# A stand-in for nixpkgs: packages are names, and functions take the arguments that
# nixpkgs' own take, and no others. `tools` and `closure` are what the commands of the
# image run and read, where they are run.
{
  tools ? "/nix/store/00000000000000000000000000000000-tools",
  closure ? "/nix/store/00000000000000000000000000000000-closure-info",
}:

let
  lib = import ./lib.nix;

  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
  };

  named = names: lib.genAttrs names package;

  checkMeta =
    {
      description ? "",
      longDescription ? "",
      homepage ? "",
      license ? null,
      maintainers ? [ ],
      platforms ? [ ],
      mainProgram ? "",
    }@meta:
    builtins.deepSeq meta meta;

  modules =
    named [
      "attrs"
      "bcrypt"
      "cachetools"
      "cryptography"
      "fastcrc"
      "google-cloud-storage"
      "hypothesis"
      "isal"
      "jinja2"
      "klein"
      "myst-parser"
      "networkx"
      "packaging"
      "prometheus-client"
      "pyyaml"
      "rapidfuzz"
      "setuptools"
      "spdx-tools"
      "sphinx"
      "tqdm"
      "treq"
      "zstandard"
    ]
    // {
      cyclonedx-python-lib = package "cyclonedx-python-lib" // {
        optional-dependencies.json-validation = [ (package "jsonschema") ];
      };
      pyjwt = package "pyjwt" // {
        optional-dependencies.crypto = [ modules.cryptography ];
      };
      twisted = package "twisted" // {
        optional-dependencies.tls = map package [
          "pyopenssl"
          "service-identity"
          "idna"
        ];
      };
    };
in
named [
  "bashInteractive"
  "cacert"
  "coreutils"
  "git"
  "git-lfs"
  "gnutar"
  "gzip"
  "nix"
  "openssh"
  "tini"
  "util-linux"
  "xz"
]
// {
  inherit lib;

  buildPackages = {
    nix = package "nix" // {
      outPath = tools;
    };
    sqlite = package "sqlite" // {
      outPath = tools;
    };
  };

  path = "/nix/store/00000000000000000000000000000000-nixpkgs";
  writeTextDir = path: text: package (baseNameOf path) // { inherit path text; };

  runCommand =
    name:
    {
      nativeBuildInputs ? [ ],
      meta ? { },
      passthru ? { },
    }:
    script:
    package name // { inherit script; };

  closureInfo =
    { rootPaths }:
    package "closure-info"
    // {
      inherit rootPaths;
      outPath = closure;
    };

  formats.yaml = { }: {
    generate = name: value: package "${name}-${builtins.toJSON value}";
  };

  dockerTools =
    named [
      "binSh"
      "caCertificates"
      "usrBinEnv"
    ]
    // {
      buildLayeredImage =
        {
          name,
          tag ? null,
          fromImage ? null,
          contents ? [ ],
          config ? { },
          architecture ? "amd64",
          created ? "1970-01-01T00:00:01Z",
          maxLayers ? 100,
          extraCommands ? "",
          fakeRootCommands ? "",
          enableFakechroot ? false,
          passthru ? { },
        }@image:
        image;
    };

  python3Packages = modules // {
    python = package "python3" // {
      sitePackages = "lib/python3/site-packages";
    };

    buildPythonApplication =
      {
        pname,
        version,
        src,
        pyproject,
        build-system ? [ ],
        dependencies ? [ ],
        optional-dependencies ? { },
        makeWrapperArgs ? [ ],
        postInstall ? "",
        doCheck ? true,
        nativeCheckInputs ? [ ],
        checkPhase ? "",
        pythonImportsCheck ? [ ],
        passthru ? { },
        meta ? { },
      }@arguments:
      package "${pname}-${version}"
      // passthru
      // {
        inherit arguments version;
        meta = checkMeta meta;
      };
  };
}
