// Bundles the explorer into dist: one flat folder, all that the page ever loads.
import { unlink } from 'node:fs/promises';
import { build } from 'esbuild';

// The style sheets carry their fonts as data: URLs. As files, only those that a text needs are loaded.
const fonts = {
  name: 'fonts',
  setup({ onResolve, onLoad }) {
    let number = 0;
    onResolve({ filter: /^data:font\// }, ({ path }) => {
      const [, kind, base64] = path.match(/^data:font\/(\w+);base64,(.*)$/);
      return { path: `${number++}.${kind}`, pluginData: base64, namespace: 'font' };
    });
    onLoad({ filter: /./, namespace: 'font' }, ({ pluginData }) => ({
      contents: Buffer.from(pluginData, 'base64'),
      loader: 'file',
    }));
  },
};

const { metafile } = await build({
  entryPoints: {
    explorer: 'main.jsx',
    'editor.worker': 'monaco-editor/esm/vs/editor/editor.worker.js',
    'graphql.worker': 'monaco-graphql/esm/graphql.worker.js',
    'json.worker': 'monaco-editor/esm/vs/language/json/json.worker.js',
  },
  outdir: 'dist',
  bundle: true,
  minify: true,
  splitting: true,
  format: 'esm',
  target: 'es2022',
  jsx: 'automatic',
  loader: { '.ttf': 'file' },
  assetNames: 'font-[hash]',
  chunkNames: 'chunk-[hash]',
  logLevel: 'warning',
  metafile: true,
  // GraphiQL loads these by their CommonJS names, whose exports an ES module doesn't see.
  alias: { 'prettier/parser-babel': 'prettier/plugins/babel', 'prettier/parser-graphql': 'prettier/plugins/graphql' },
  plugins: [fonts],
});

// esbuild also writes the style sheets of lazily loaded modules apart; explorer.css has them already.
await Promise.all(Object.keys(metafile.outputs).filter((name) => /chunk-\w+\.css$/.test(name)).map((name) => unlink(name)));
