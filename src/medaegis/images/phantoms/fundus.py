"""placeholder"""
from medaegis.images.phantoms.xray import draw_xray as draw_fundus  # noqa
