{ lib }:
{
  addMetaAttrs = attributes: drv: drv // { meta = (drv.meta or { }) // attributes; };
  hiPrio = drv: lib.meta.addMetaAttrs { priority = -10; } drv;
  lowPrio = drv: lib.meta.addMetaAttrs { priority = 10; } drv;
  availableOn = system: drv: !drv ? meta.platforms || builtins.elem system drv.meta.platforms;
}
