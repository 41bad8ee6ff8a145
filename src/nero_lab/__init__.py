"""The experiments that hold Nero against its peers, and the ``nero`` command that runs them.

Needs the extra ``lab`` (``pip install 'nero-optim[lab]'``). The library ``nero`` never imports
anything from here.
"""
