// The page of a grid: a table of images and the viewer, both of which the pages share.
makeTable(JSON.parse(document.getElementById("data").textContent), {});
